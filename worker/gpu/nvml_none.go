//go:build !linux || !cgo

package gpu

import "errors"

func openNVML() (source, error) {
	return nil, errors.New("NVML: this program was built without it (it needs Linux and a C compiler)")
}
