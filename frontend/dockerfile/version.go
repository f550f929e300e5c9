package dockerfile

// Version is the version of the Dockerfile language that the frontend implements, as
// docker/dockerfile counts them.
const Version = "1.27.0"
