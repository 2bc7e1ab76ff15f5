package manifest

import solov1 "github.com/solo-os/solo/proto/solo/v1"

// Defaults and bounds of resources; see the comments of solo.v1.Resources.
const (
	defaultMemory    = 4 << 30
	defaultProcesses = 100
	defaultShares    = 1024
	defaultOpenFiles = 1024
	defaultTmp       = 64 << 20
	defaultLogRate   = 1 << 20
	defaultQueue     = 10_000
)

// bound is one limit: what it is when it is zero, and what it may be.
type bound struct {
	field        string
	value        uint64
	set          func(uint64)
	or, min, max uint64
}

func (c *checker) resources(m *solov1.DeployRequest) {
	if m.GetResources() == nil {
		m.Resources = &solov1.Resources{}
	}
	r := m.GetResources()
	u32 := func(p *uint32) func(uint64) { return func(v uint64) { *p = uint32(v) } }
	u64 := func(p *uint64) func(uint64) { return func(v uint64) { *p = v } }
	for _, b := range []bound{
		{"max_memory_bytes", r.GetMaxMemoryBytes(), u64(&r.MaxMemoryBytes), defaultMemory, 1 << 20, 1 << 50},
		{"max_processes", uint64(r.GetMaxProcesses()), u32(&r.MaxProcesses), defaultProcesses, 1, 32768},
		{"cpu_shares", uint64(r.GetCpuShares()), u32(&r.CpuShares), defaultShares, 2, 262144},
		{"cpu_quota_millis", uint64(r.GetCpuQuotaMillis()), u32(&r.CpuQuotaMillis), 0, 10, 1_024_000},
		{"max_open_files", uint64(r.GetMaxOpenFiles()), u32(&r.MaxOpenFiles), defaultOpenFiles, 16, 20000},
		{"max_tmp_bytes", r.GetMaxTmpBytes(), u64(&r.MaxTmpBytes), defaultTmp, 64 << 10, 64 << 30},
		{"log_rate", r.GetLogRate(), u64(&r.LogRate), defaultLogRate, 1 << 10, 1 << 30},
		{"message_queue_limit", uint64(r.GetMessageQueueLimit()), u32(&r.MessageQueueLimit), defaultQueue, 1, 1_000_000},
		{"startup_timeout_ms", uint64(r.GetStartupTimeoutMs()), u32(&r.StartupTimeoutMs), 0, 1, 600_000},
		{"shutdown_timeout_ms", uint64(r.GetShutdownTimeoutMs()), u32(&r.ShutdownTimeoutMs), DefaultShutdown, 1, 600_000},
	} {
		if b.value == 0 {
			b.set(b.or)
			continue
		}
		if b.value < b.min || b.value > b.max {
			c.add("resources."+b.field, "%d is out of range, %d to %d are allowed", b.value, b.min, b.max)
		}
	}
	switch r.GetLimitExceededAction() {
	case "":
		r.LimitExceededAction = "kill"
	case "kill":
	case "throttle", "warn":
		c.add("resources.limit_exceeded_action", "%q is not supported by this version of Solo; kill is", r.GetLimitExceededAction())
	default:
		c.add("resources.limit_exceeded_action", "%q is none of kill, throttle, warn", clip(r.GetLimitExceededAction()))
	}
}
