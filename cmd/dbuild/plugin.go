package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/continuity"
	dockerplugin "github.com/docker/cli/cli-plugins/metadata"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// pluginName is the file that docker looks for; "docker dbuild" runs it.
const pluginName = "docker-dbuild"

// isPlugin tells whether the docker command line has started us, by the name of the file.
func isPlugin(program string) bool { return filepath.Base(program) == pluginName }

// plugin answers as a plugin of the docker command line: it says who it is, or runs what
// stands behind docker's own flags and our name.
func (a *app) plugin(args []string) (rest []string, done bool, err error) {
	if len(args) == 1 && args[0] == dockerplugin.MetadataSubcommandName {
		return nil, true, json.NewEncoder(a.stdout).Encode(dockerplugin.Metadata{
			SchemaVersion: "0.1.0", Vendor: "dbuild", Version: version(), ShortDescription: "Build container images from Dockerfiles",
			URL: "https://" + daemonPackage,
		})
	}
	f := pflag.NewFlagSet("docker", pflag.ContinueOnError)
	f.SetInterspersed(false)
	f.SetOutput(io.Discard)
	config := f.String("config", "", "")
	f.BoolP("debug", "D", false, "")
	// An engine is not needed to build: these choose one, and are for others.
	for _, name := range []string{"log-level", "tlscacert", "tlscert", "tlskey"} {
		f.String(name, "", "")
	}
	f.StringP("context", "c", "", "")
	f.StringArrayP("host", "H", nil, "")
	f.Bool("tls", false, "")
	f.Bool("tlsverify", false, "")
	f.ShorthandLookup("D").NoOptDefVal = "true"
	if err := f.Parse(args); err != nil {
		return nil, false, usagef("docker's flags: %v", err)
	}
	if *config != "" {
		if err := os.Setenv("DOCKER_CONFIG", *config); err != nil {
			return nil, false, err
		}
	}
	rest = f.Args()
	if len(rest) > 0 && rest[0] == strings.TrimPrefix(pluginName, "docker-") {
		rest = rest[1:]
	}
	return rest, false, nil
}

// installPluginCommand returns "dbuild install-plugin".
func (a *app) installPluginCommand() *cobra.Command {
	var defaultBuilder, remove bool
	c := &cobra.Command{
		Use:   "install-plugin [--default-builder]",
		Short: "Make this program a plugin of docker: docker dbuild, and docker build if wanted",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			dir, err := a.dockerConfigDir()
			if err != nil {
				return err
			}
			if remove {
				if err := os.Remove(filepath.Join(dir, "cli-plugins", pluginName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return err
				}
				return setBuilder(filepath.Join(dir, "config.json"), false)
			}
			path, err := linkPlugin(dir)
			if err != nil {
				return err
			}
			fmt.Fprintln(a.stdout, "installed", path)
			if !defaultBuilder {
				return nil
			}
			return setBuilder(filepath.Join(dir, "config.json"), true)
		},
	}
	c.Flags().BoolVar(&defaultBuilder, "default-builder", false, "let plain \"docker build\" run dbuild")
	c.Flags().BoolVar(&remove, "remove", false, "undo it")
	return c
}

func (a *app) dockerConfigDir() (string, error) {
	if dir, ok := a.lookup("DOCKER_CONFIG"); ok && dir != "" {
		return dir, nil
	}
	home, err := os.UserHomeDir()
	return filepath.Join(home, ".docker"), err
}

// linkPlugin makes this program known as docker-dbuild.
func linkPlugin(dir string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	plugins := filepath.Join(dir, "cli-plugins")
	if err := os.MkdirAll(plugins, 0o755); err != nil {
		return "", err
	}
	path := filepath.Join(plugins, pluginName)
	switch st, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return "", err
	case st.Mode().Type() != fs.ModeSymlink:
		return "", fmt.Errorf("%s is there already and no link; remove it first", path)
	default:
		if err := os.Remove(path); err != nil {
			return "", err
		}
	}
	return path, os.Symlink(self, path)
}

// setBuilder says in docker's configuration whether "docker build" is ours. Whatever else
// stands there stays.
func setBuilder(path string, ours bool) error {
	config := map[string]json.RawMessage{}
	mode := fs.FileMode(0o600)
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if !ours {
			return nil
		}
	case err != nil:
		return err
	default:
		if err := json.Unmarshal(data, &config); err != nil {
			return fmt.Errorf("%s: not JSON, so it was left as it is: %w", path, err)
		}
		if st, err := os.Stat(path); err == nil {
			mode = st.Mode().Perm()
		}
	}
	aliases := map[string]string{}
	if raw, ok := config["aliases"]; ok {
		if err := json.Unmarshal(raw, &aliases); err != nil {
			return fmt.Errorf("%s: aliases: %w", path, err)
		}
	}
	name := strings.TrimPrefix(pluginName, "docker-")
	switch {
	case ours:
		aliases["builder"] = name
	case aliases["builder"] == name:
		delete(aliases, "builder")
	default:
		return nil
	}
	if config["aliases"], err = json.Marshal(aliases); err != nil {
		return err
	}
	if len(aliases) == 0 {
		delete(config, "aliases")
	}
	out, err := json.MarshalIndent(config, "", "\t")
	if err != nil {
		return err
	}
	return continuity.AtomicWriteFile(path, append(out, '\n'), mode)
}
