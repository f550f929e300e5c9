// Package policy decides which sources a build may use, and in what form: it allows a
// source, refuses it, or makes another one of it.
//
// Rules come with the request, from a frontend, or from a program in the client that is
// asked about each source. A source passes the rules first. In each list of rules a
// conversion that changes the source comes before everything else, and the source it makes
// is judged anew; otherwise the last rule that matches decides, and no rule permits. One
// list that refuses is enough. Then the client's program is asked, until it decides; it may
// want to know more first, such as the digest of an image.
//
// Rules see a source in one form however it was written: names of images in full, paths of
// git repositories cleaned. They match before anything is fetched.
package policy
