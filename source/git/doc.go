// Package git checks out commits of remote repositories, with the git program.
//
// A source is pinned to a commit by asking the remote each time; only a full commit id
// asks nothing. One bare repository per remote, kept between builds, takes what is
// fetched, as shallow as the remote allows; each commit is checked out into a layer of
// its own.
//
// Remotes are not trusted: git runs without any configuration but ours, without hooks,
// prompts and helpers, with a list of allowed transports, and never sees a credential in
// its arguments. When a build is cancelled its whole process group is killed.
package git
