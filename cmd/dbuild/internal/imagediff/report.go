package imagediff

// A Report is how two results differ. Its JSON is what "dbuild verify --format json" prints
// (docs/verify.md).
type Report struct {
	Equal  bool    `json:"equal"`
	Images []Image `json:"images"`
}

// An Image is how the images for one platform differ.
type Image struct {
	Platform string    `json:"platform"`
	Digests  [2]string `json:"digests"` // of the manifests; "" where there is none for the platform
	Layers   []Layer   `json:"layers,omitempty"`
	Config   []Field   `json:"config,omitempty"`
}

// A Layer is how two layers in the same place differ.
type Layer struct {
	Index     int       `json:"index"` // from 0, the lowest
	CreatedBy string    `json:"createdBy,omitempty"`
	Digests   [2]string `json:"digests"` // "" where there is no such layer
	// Paths is empty if the layers have the same files and are written differently, or if
	// there is but one.
	Paths []Path `json:"paths,omitempty"`
}

// A Path is how an entry of a layer differs.
type Path struct {
	Path string `json:"path"`
	// Differs has the names of what differs, such as content and mode. It is empty if the
	// entry is in one layer only.
	Differs []string `json:"differs,omitempty"`
	First   *Entry   `json:"first,omitempty"`
	Second  *Entry   `json:"second,omitempty"`
}

// An Entry is what a layer says of a path.
type Entry struct {
	Type   string            `json:"type"`
	Mode   string            `json:"mode"` // octal
	UID    int               `json:"uid"`
	GID    int               `json:"gid"`
	Size   int64             `json:"size"`             // in bytes
	Time   string            `json:"time"`             // RFC 3339
	SHA256 string            `json:"sha256,omitempty"` // of a file's content
	Link   string            `json:"link,omitempty"`
	Device string            `json:"device,omitempty"` // MAJOR:MINOR
	Xattrs map[string]string `json:"xattrs,omitempty"`
}

// A Field is a part of an image's configuration, or an annotation of its manifest, with its
// values; one that is not there is null.
type Field struct {
	Field  string `json:"field"`
	First  any    `json:"first"`
	Second any    `json:"second"`
}

// Files is how many paths differ.
func (r *Report) Files() (n int) {
	for _, i := range r.Images {
		for _, l := range i.Layers {
			n += len(l.Paths)
		}
	}
	return n
}
