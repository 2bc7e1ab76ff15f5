package cgroups

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// NoLimit lifts a limit in Limits, and is what reading an absent limit gives.
const NoLimit = math.MaxUint64

// PeriodUsec is the time that a CPU quota is a part of.
const PeriodUsec = 100_000

// Limits are the limits to change; a zero field leaves its limit as it is, and
// NoLimit lifts it.
type Limits struct {
	// MemoryMax in bytes, swap included: nothing of the group is swapped. On v2
	// an OOM kill then ends the whole group.
	MemoryMax uint64
	// PidsMax counts tasks, that is threads too.
	PidsMax uint64
	// CPUShares is the v1 scale, 2 to 262,144, default 1024; on v2 it is
	// converted as the OCI runtimes do.
	CPUShares uint32
	// CPUQuotaUsec of CPU time in every PeriodUsec, at least 1,000.
	CPUQuotaUsec uint64
}

// Set writes the limits that are not zero, and answers the first error of all. A memory
// limit below the present usage is refused with EBUSY on v1 if reclaim does not help; v2
// takes it and kills.
func (g *Group) Set(l Limits) error {
	set := g.setV1
	if g.h.mode == V2 {
		set = g.setV2
	}
	if l.CPUShares != 0 && (l.CPUShares < 2 || l.CPUShares > 262144) {
		// v1 would take another value without a word.
		return fmt.Errorf("limits of group %s: CPUShares %d is not within 2 to 262144", g.path, l.CPUShares)
	}
	if err := set(l); err != nil {
		return fmt.Errorf("limits of group %s: %w", g.path, err)
	}
	return nil
}

// set writes a limit unless it is to stay as it is.
func set(limit uint64, file, value string) error {
	if limit == 0 {
		return nil
	}
	return writeFile(file, value)
}

func (g *Group) setV2(l Limits) error {
	swap := set(l.MemoryMax, g.file("memory.swap.max"), "0")
	if errors.Is(swap, unix.ENOENT) {
		swap = nil // a Linux kernel without swap
	}
	return cmp.Or(swap,
		set(l.MemoryMax, g.file("memory.oom.group"), "1"),
		set(l.MemoryMax, g.file("memory.max"), orMax(l.MemoryMax)),
		set(l.PidsMax, g.file("pids.max"), orMax(l.PidsMax)),
		set(uint64(l.CPUShares), g.file("cpu.weight"), decimal(Weight(l.CPUShares))),
		set(l.CPUQuotaUsec, g.file("cpu.max"), orMax(l.CPUQuotaUsec)+" "+decimal(PeriodUsec)))
}

func (g *Group) setV1(l Limits) error {
	return cmp.Or(g.setMemoryV1(l.MemoryMax),
		set(l.PidsMax, g.v1File("pids", "pids.max"), orMax(l.PidsMax)),
		set(uint64(l.CPUShares), g.v1File("cpu", "cpu.shares"), decimal(uint64(l.CPUShares))),
		set(l.CPUQuotaUsec, g.v1File("cpu", "cpu.cfs_period_us"), decimal(PeriodUsec)),
		set(l.CPUQuotaUsec, g.v1File("cpu", "cpu.cfs_quota_us"), orMinusOne(l.CPUQuotaUsec)))
}

// setMemoryV1 sets memory and memory+swap to the same value, which leaves no
// swap. The kernel wants limit <= memsw at every moment, so the order depends on
// the direction.
func (g *Group) setMemoryV1(limit uint64) error {
	if limit == 0 {
		return nil
	}
	memory := g.v1File("memory", "memory.limit_in_bytes")
	memsw := g.v1File("memory", "memory.memsw.limit_in_bytes")
	value := orMinusOne(limit)
	old, err := readValue(memsw)
	if errors.Is(err, os.ErrNotExist) {
		// No swap accounting: keep the group's pages out of swap as far as
		// the kernel lets us.
		return cmp.Or(writeFile(g.v1File("memory", "memory.swappiness"), "0"), writeFile(memory, value))
	}
	if err != nil {
		return err
	}
	if limit > old {
		memory, memsw = memsw, memory
	}
	if err := writeFile(memory, value); err != nil {
		return err
	}
	return writeFile(memsw, value)
}

// Weight converts v1 CPU shares (2 to 262,144, default 1024) to a v2 weight (1 to
// 10,000, default 100) as the OCI runtimes do since 2025: a curve through both
// ends and both defaults.
func Weight(shares uint32) uint64 {
	switch {
	case shares <= 2:
		return 1
	case shares >= 262144:
		return 10000
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34)))
}

func decimal(n uint64) string { return strconv.FormatUint(n, 10) }

func orMax(n uint64) string {
	if n == NoLimit {
		return "max"
	}
	return decimal(n)
}

func orMinusOne(n uint64) string {
	if n == NoLimit {
		return "-1"
	}
	return decimal(n)
}
