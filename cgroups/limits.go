package cgroups

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// NoLimit lifts a limit in Limits, and is what reading an absent limit gives.
const NoLimit = math.MaxUint64

// DefaultPeriodUsec is the CPU period that applies when a quota is set without
// one.
const DefaultPeriodUsec = 100_000

// Limits are the limits to change; a zero field leaves its limit as it is, and
// NoLimit lifts it.
type Limits struct {
	// MemoryMax in bytes, swap included: nothing of the group is swapped. On v2
	// an OOM kill then ends the whole group.
	MemoryMax uint64
	// MemoryHigh in bytes. Above it v2 slows the group down and reclaims. v1
	// has no such limit: there it is the reclaim target under host pressure
	// (memory.soft_limit_in_bytes), and who wants throttling sets a CPU quota
	// at a Watcher's MemoryMark.
	MemoryHigh uint64
	// PidsMax counts tasks, that is threads too.
	PidsMax uint64
	// CPUShares is the v1 scale, 2 to 262,144, default 1024; on v2 it is
	// converted as the OCI runtimes do.
	CPUShares uint32
	// CPUQuotaUsec of CPU time in every CPUPeriodUsec (1,000 to 1,000,000; zero
	// means DefaultPeriodUsec when a quota is set). The quota is at least 1,000.
	CPUQuotaUsec  uint64
	CPUPeriodUsec uint64
}

// Validate names the first field out of range.
func (l Limits) Validate() error {
	if l.CPUShares != 0 && (l.CPUShares < 2 || l.CPUShares > 262144) {
		return fmt.Errorf("CPUShares %d is not within 2 to 262144", l.CPUShares)
	}
	if l.CPUQuotaUsec != 0 && l.CPUQuotaUsec < 1000 {
		return fmt.Errorf("CPUQuotaUsec %d is under 1000", l.CPUQuotaUsec)
	}
	if l.CPUQuotaUsec != NoLimit && l.CPUQuotaUsec > 1<<44 {
		return fmt.Errorf("CPUQuotaUsec %d is over %d", l.CPUQuotaUsec, uint64(1<<44))
	}
	if l.CPUPeriodUsec != 0 && (l.CPUPeriodUsec < 1000 || l.CPUPeriodUsec > 1_000_000) {
		return fmt.Errorf("CPUPeriodUsec %d is not within 1000 to 1000000", l.CPUPeriodUsec)
	}
	if l.CPUPeriodUsec != 0 && l.CPUQuotaUsec == 0 {
		return errors.New("CPUPeriodUsec without CPUQuotaUsec")
	}
	return nil
}

// Set writes the limits that are not zero, and stops at the first the kernel
// does not take (a *WriteError). A memory limit below the present usage is
// refused with EBUSY on v1 if reclaim does not help; v2 takes it and kills.
func (g *Group) Set(l Limits) error {
	if err := l.Validate(); err != nil {
		return fmt.Errorf("limits of group %s: %w", g.path, err)
	}
	set := g.setV1
	if g.h.mode == V2 {
		set = g.setV2
	}
	if err := set(l); err != nil {
		return fmt.Errorf("limits of group %s: %w", g.path, err)
	}
	return nil
}

func (g *Group) setV2(l Limits) error {
	if l.MemoryMax != 0 {
		// The file is absent on kernels without swap.
		if err := writeFile(g.file("memory.swap.max"), "0"); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
		if err := writeFile(g.file("memory.oom.group"), "1"); err != nil {
			return err
		}
		if err := writeFile(g.file("memory.max"), orMax(l.MemoryMax)); err != nil {
			return err
		}
	}
	if l.MemoryHigh != 0 {
		if err := writeFile(g.file("memory.high"), orMax(l.MemoryHigh)); err != nil {
			return err
		}
	}
	if l.PidsMax != 0 {
		if err := writeFile(g.file("pids.max"), orMax(l.PidsMax)); err != nil {
			return err
		}
	}
	if l.CPUShares != 0 {
		if err := writeFile(g.file("cpu.weight"), decimal(Weight(l.CPUShares))); err != nil {
			return err
		}
	}
	if l.CPUQuotaUsec != 0 {
		return writeFile(g.file("cpu.max"), orMax(l.CPUQuotaUsec)+" "+decimal(l.period()))
	}
	return nil
}

func (g *Group) setV1(l Limits) error {
	if l.MemoryMax != 0 {
		if err := g.setMemoryV1(l.MemoryMax); err != nil {
			return err
		}
	}
	if l.MemoryHigh != 0 {
		if err := writeFile(g.v1File("memory", "memory.soft_limit_in_bytes"), orMinusOne(l.MemoryHigh)); err != nil {
			return err
		}
	}
	if l.PidsMax != 0 {
		if err := writeFile(g.v1File("pids", "pids.max"), orMax(l.PidsMax)); err != nil {
			return err
		}
	}
	if l.CPUShares != 0 {
		if err := writeFile(g.v1File("cpu", "cpu.shares"), decimal(uint64(l.CPUShares))); err != nil {
			return err
		}
	}
	if l.CPUQuotaUsec != 0 {
		if err := writeFile(g.v1File("cpu", "cpu.cfs_period_us"), decimal(l.period())); err != nil {
			return err
		}
		return writeFile(g.v1File("cpu", "cpu.cfs_quota_us"), orMinusOne(l.CPUQuotaUsec))
	}
	return nil
}

// setMemoryV1 sets memory and memory+swap to the same value, which leaves no
// swap. The kernel wants limit <= memsw at every moment, so the order depends on
// the direction.
func (g *Group) setMemoryV1(limit uint64) error {
	memory := g.v1File("memory", "memory.limit_in_bytes")
	memsw := g.v1File("memory", "memory.memsw.limit_in_bytes")
	value := orMinusOne(limit)
	old, err := readValue(memsw)
	switch {
	case errors.Is(err, os.ErrNotExist):
		// No swap accounting: keep the group's pages out of swap as far as
		// the kernel lets us.
		if err := writeFile(g.v1File("memory", "memory.swappiness"), "0"); err != nil {
			return err
		}
		return writeFile(memory, value)
	case err != nil:
		return err
	case limit > old:
		memory, memsw = memsw, memory
	}
	if err := writeFile(memory, value); err != nil {
		return err
	}
	return writeFile(memsw, value)
}

func (l Limits) period() uint64 {
	if l.CPUPeriodUsec == 0 {
		return DefaultPeriodUsec
	}
	return l.CPUPeriodUsec
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
