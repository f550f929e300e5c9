package snapshot

// Snapshotter names how layers are mounted: "overlayfs" or "native".
func (s *Store) Snapshotter() string {
	if _, ok := s.mnt.(*native); ok {
		return "native"
	}
	return "overlayfs"
}
