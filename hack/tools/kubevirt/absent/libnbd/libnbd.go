// Package libnbd declares what KubeVirt's backups call; see ../README.md.
package libnbd

import "errors"

// Names and flags of the NBD protocol, as its specification gives them.
const (
	CONTEXT_BASE_ALLOCATION   = "base:allocation"
	CONTEXT_QEMU_DIRTY_BITMAP = "qemu:dirty-bitmap:"

	STATE_HOLE  uint32 = 1
	STATE_ZERO  uint32 = 2
	STATE_DIRTY uint32 = 1
)

var errAbsent = errors.New("built without libnbd")

// Libnbd is a connection, of which there are none.
type Libnbd struct{}

// LibnbdExtent is a run of blocks in one state.
type LibnbdExtent struct{ Length, Flags uint64 }

// Extent64Callback is told the extents of a block status.
type Extent64Callback func(metacontext string, offset uint64, entries []LibnbdExtent, nbdError *int) int

// BlockStatus64Optargs are the optional arguments of BlockStatus64.
type BlockStatus64Optargs struct{}

// PreadOptargs are the optional arguments of Pread.
type PreadOptargs struct{}

// Create fails, so that none of the methods is ever called.
func Create() (*Libnbd, error) { return nil, errAbsent }

func (*Libnbd) AddMetaContext(string) error { return errAbsent }

func (*Libnbd) BlockStatus64(uint64, uint64, Extent64Callback, *BlockStatus64Optargs) error {
	return errAbsent
}

func (*Libnbd) CanMetaContext(string) (bool, error) { return false, errAbsent }

func (*Libnbd) Close() *error { return nil }

func (*Libnbd) ConnectUnix(string) error { return errAbsent }

func (*Libnbd) GetSize() (uint64, error) { return 0, errAbsent }

func (*Libnbd) Pread([]byte, uint64, *PreadOptargs) error { return errAbsent }

func (*Libnbd) SetExportName(string) error { return errAbsent }
