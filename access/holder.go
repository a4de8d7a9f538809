package access

// Holder says who holds the key with this ID, from memory: for sessions, which keep a key's ID and not the key. Whoever
// calls it must have authenticated the holder before.
func (s *Store) Holder(id string) (Principal, error) {
	select {
	case <-s.ready:
	default:
		return Principal{}, ErrNotReady
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	k, ok := s.view.keys[id]
	if !ok || k.Revoked != 0 {
		return Principal{}, ErrBadKey
	}
	return Principal{Tenant: k.Tenant, Admin: k.Admin, KeyID: id}, nil
}
