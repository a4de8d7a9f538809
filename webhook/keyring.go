package webhook

import (
	"fmt"
	"time"
)

// keyring are secrets that sign, the current one first: several for a while behind a rotation.
type keyring []stored

type stored struct {
	Secret string `json:"secret"` // sealed
	// Until is when a secret that was rotated out stops signing, in unix seconds; 0 for the current one.
	Until int64 `json:"until,omitempty"`
}

// rotated has a new current secret, and not those that sign no more. For overlap the one before signs too.
func (k keyring) rotated(sealed string, now time.Time, overlap time.Duration) keyring {
	out := keyring{{Secret: sealed}}
	for _, old := range k {
		end := now.Add(overlap).Unix()
		if old.Until != 0 {
			end = min(end, old.Until)
		}
		if end > now.Unix() {
			out = append(out, stored{old.Secret, end})
		}
	}
	return out
}

// open are the secrets that sign now. Without any it is ErrSecret.
func (k keyring) open(s *Sealer, context string, now time.Time) (out []string, err error) {
	for _, x := range k {
		if x.Until != 0 && x.Until <= now.Unix() {
			continue
		}
		secret, err := s.Open(context, x.Secret)
		if err != nil {
			return nil, err
		}
		out = append(out, secret)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("none is there: %w", ErrSecret)
	}
	return out, nil
}

// overlap is when the last secret that was rotated out stops signing, in unix seconds; 0 if none is left.
func (k keyring) overlap(now time.Time) (until int64) {
	for _, x := range k {
		if x.Until > now.Unix() {
			until = max(until, x.Until)
		}
	}
	return until
}
