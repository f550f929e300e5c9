// Package llb is the build graph: how frontends write it (build), how the daemon
// reads it (load) and how people see it (print). The wire form is BuildKit's
// solver/pb.Definition, and an op built here has the bytes, and so the digest, that
// BuildKit's own client gives to the same op.
//
// # Building
//
// An Output is one output of a node; the zero Output is an empty filesystem
// (scratch). Constructors take what they need in one struct and what people see, but
// no digest contains, in a Meta. They never fail: an unusable argument is reported by
// Marshal.
//
//	src  := llb.Image("alpine:3.20", llb.ImageOptions{}, llb.Meta{Name: "[1/3] FROM alpine"})
//	ctx  := llb.Local("context", llb.LocalOptions{SessionID: id}, llb.Meta{})
//	run  := llb.Exec(llb.ExecOptions{
//	        Root: src, Args: []string{"/bin/sh", "-c", "make"}, Cwd: "/src", Env: env,
//	        Mounts: []llb.Mount{{Target: "/src", Source: ctx, Readonly: true}},
//	}, llb.Meta{})
//	out  := llb.File(run.Root(), []llb.FileAction{
//	        llb.Mkdir{Path: "/out", Mode: 0o755},
//	        llb.Copy{From: ctx, Src: "/a", Dest: "/out/", Mode: llb.KeepMode},
//	}, llb.Meta{})
//	def, err := llb.Marshal(ctx, out, platform)
//
// Nodes without a platform of their own take that of what they are built on, or the
// one given to Marshal. Only image, OCI layout and exec ops carry a platform. Nodes are immutable, may be shared, and
// may be marshalled from several goroutines.
//
// # Loading
//
// Load checks a definition once, at the door: whatever it returns has known kinds of
// ops, inputs that exist, and bounded size and depth, so nothing after it has to.
package llb
