package elfdeps

import (
	"encoding/binary"
	"fmt"
)

// machine is what a program must be made for; only 64-bit little-endian machines are
// supported, which is what Solo runs on.
type machine struct {
	// number is e_machine.
	number uint16
	name   string
	// triplet is Debian's multiarch directory.
	triplet string
	// cacheFlags is what an entry of ld.so.cache for this machine has.
	cacheFlags int32
	// musl is the architecture in the name of musl's loader.
	musl string
}

// machineFor knows Go's names of architectures.
func machineFor(goarch string) (machine, error) {
	switch goarch {
	case "amd64":
		return machine{62, "x86_64", "x86_64-linux-gnu", 0x0303, "x86_64"}, nil
	case "arm64":
		return machine{183, "aarch64", "aarch64-linux-gnu", 0x0a03, "aarch64"}, nil
	}
	return machine{}, fmt.Errorf("architecture %s is not supported", goarch)
}

// accepts checks class, byte order and machine; head has at least 20 bytes.
func (m machine) accepts(head []byte) error {
	const class64, little = 2, 1
	var order binary.ByteOrder = binary.LittleEndian
	switch head[5] {
	case little:
	case 2:
		order = binary.BigEndian
	default:
		return malformed("byte order %d", head[5])
	}
	if head[4] != 1 && head[4] != class64 {
		return malformed("class %d", head[4])
	}
	number := order.Uint16(head[18:])
	if head[4] == class64 && head[5] == little && number == m.number {
		return nil
	}
	bits, end := "64-bit", ""
	if head[4] != class64 {
		bits = "32-bit"
	}
	if head[5] != little {
		end = ", big-endian"
	}
	return &ArchitectureError{Architecture: fmt.Sprintf("%s (%s%s)", machineName(number), bits, end)}
}

func machineName(number uint16) string {
	switch number {
	case 3:
		return "x86"
	case 8:
		return "mips"
	case 20:
		return "powerpc"
	case 21:
		return "powerpc64"
	case 22:
		return "s390"
	case 40:
		return "arm"
	case 62:
		return "x86_64"
	case 183:
		return "aarch64"
	case 243:
		return "riscv"
	case 258:
		return "loongarch"
	}
	return fmt.Sprintf("machine number %d", number)
}
