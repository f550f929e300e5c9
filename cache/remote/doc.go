// Package remote carries the solver's memory elsewhere and back: to a registry, into the
// image that is exported, to a directory of the client, or to a place that keeps objects
// (Objects; s3, azblob and gha are packages of their own, so that nothing here needs their
// SDKs).
//
// What is written has BuildKit's form: layer blobs, and a config that lists records. A
// record is named by a digest, may have results, which are chains of layers, and says
// which records it was made from. Our records are
//
//	an output   digest: the ID under which a Cache knows it
//	            inputs: the outputs it was made from, which nothing here depends on
//	            results: its layers, if there are any; without, it is known to be known
//	a sum       digest: the content of a part
//	            inputs: the outputs that have this content, the part as selector
//
// Since the keys of a whole graph follow from what its sources mean and from sums, that
// is all an empty daemon needs to find the last answer without fetching any other. Reading
// a cache reads its manifest and its config; results are promises until somebody wants
// their bytes.
//
// The same answers stand there once more under the names that BuildKit gives them, and
// what BuildKit wrote is found by these (cache/buildkit has the rules, solver.Foreign the
// way in which names are found). Neither disturbs the other: digests of the two kinds are
// of different things, and selectors of sums begin with "part:".
//
// Beside records there may be cache mounts, each a blob with what is in one. They are no
// answers: they are handed to the worker, for steps that run.
//
// A cache is advice. One that cannot be read is a warning, a layer that is gone is a miss.
// Using somebody's cache means to trust what they say they built.
package remote
