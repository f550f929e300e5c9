// Package dockerfile is the Dockerfile frontend: it turns a Dockerfile and a request into
// LLB and an image config, per platform, in four passes.
//
//	load     the Dockerfile and its ignore file, through the bridge      context.go
//	parse    bytes → typed instructions                                  instruction/
//	stage    names, ARG scopes, who reads whom, what the target needs    args.go stage.go
//	resolve  configs of the base images that are needed, concurrently    resolve.go
//	lower    one file per family of instructions, each of which extends  lower.go run.go
//	         its stage's LLB and image config                            copy.go config.go ...
//
// The operations are those that BuildKit's frontend makes of the same input, to the
// digest: testdata/dockerfile holds what BuildKit said. Nothing here waits for a build.
package dockerfile
