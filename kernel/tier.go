package kernel

import (
	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/cgroups"
)

// tier says how near to the kernel a service stands.
type tier int

const (
	tierUser tier = iota
	tierSystem
	tierDriver
)

var tiers = []tier{tierUser, tierSystem, tierDriver}

// String is the tier's name in the API.
func (t tier) String() string { return [...]string{"user", "system", "driver"}[t] }

// directory is where the tier's groups are, below the root group.
func (t tier) directory() string { return [...]string{"user", "system", "drivers"}[t] }

// systemShares is the CPU weight of the system tiers against the 1024 of all user
// services together: they get their turn however many of those spin.
const systemShares = 8192

// limits of the tier as a whole. User services together leave the host a reserve of
// memory: an eighth, at most 1 GiB.
func (t tier) limits() cgroups.Limits {
	if t != tierUser {
		return cgroups.Limits{CPUShares: systemShares}
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return cgroups.Limits{}
	}
	total := info.Totalram * uint64(info.Unit)
	return cgroups.Limits{MemoryMax: total - min(total/8, 1<<30)}
}
