// Package capability holds the kernel's rights: what a token may do, and how tokens
// look. It is pure: no clock, no randomness, no I/O of its own.
//
// Trust: token text comes from clients and is hostile.
package capability

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"slices"
	"strings"
)

const (
	prefix    = "solo_"
	idLen     = 16 // hex digits
	secretLen = 64
	sumLen    = 8
	// TokenLen is the length of every token's text.
	TokenLen = len(prefix) + idLen + secretLen + sumLen
	// Entropy is how many random bytes Mint takes: 8 for the id, 32 for the secret.
	Entropy = idLen/2 + secretLen/2
)

// ErrMalformed says that a text is not a token at all: wrong length, alphabet or
// checksum. It tells nothing about tokens that exist.
var ErrMalformed = errors.New("not a token")

// Right is one thing a token allows.
type Right string

// The rights of scopes and of the kernel (design section 7).
const (
	Deploy   Right = "deploy"
	Status   Right = "status"
	Kill     Right = "kill"
	Watch    Right = "watch"
	Update   Right = "update"
	Grant    Right = "grant"
	Admin    Right = "admin"
	Shutdown Right = "shutdown"
	Upgrade  Right = "upgrade"
	Audit    Right = "audit"
)

// AllRights is what root's token has.
func AllRights() []Right {
	return []Right{Deploy, Status, Kill, Watch, Update, Grant, Admin, Shutdown, Upgrade, Audit}
}

// Token is the parsed text of a token.
type Token struct {
	// ID names the capability; it is no secret.
	ID string
	// Hash is the SHA-256 of the secret.
	Hash [sha256.Size]byte
}

// Capability is what the table keeps of a token.
type Capability struct {
	ID         string
	SecretHash [sha256.Size]byte
	// Scope is the name prefix it covers: empty, or segments that end in "/".
	Scope  string
	Rights []Right
}

// Mint makes the text of a token from Entropy random bytes, and its parsed form.
func Mint(random [Entropy]byte) (text string, token Token) {
	id := hex.EncodeToString(random[:idLen/2])
	secret := hex.EncodeToString(random[idLen/2:])
	body := prefix + id + secret
	return body + checksum(body), Token{ID: id, Hash: sha256.Sum256([]byte(secret))}
}

// Parse reads a token's text. It returns ErrMalformed for anything that Mint cannot
// have made.
func Parse(text string) (Token, error) {
	if len(text) != TokenLen || !strings.HasPrefix(text, prefix) {
		return Token{}, ErrMalformed
	}
	for _, c := range text[len(prefix):] {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return Token{}, ErrMalformed
		}
	}
	body, sum := text[:TokenLen-sumLen], text[TokenLen-sumLen:]
	if checksum(body) != sum {
		return Token{}, ErrMalformed
	}
	secret := body[len(prefix)+idLen:]
	return Token{ID: body[len(prefix) : len(prefix)+idLen], Hash: sha256.Sum256([]byte(secret))}, nil
}

// Matches compares the token's secret with the capability's, in constant time.
func (c Capability) Matches(t Token) bool {
	return subtle.ConstantTimeCompare(c.SecretHash[:], t.Hash[:]) == 1
}

// Has says whether the capability has a right.
func (c Capability) Has(r Right) bool { return slices.Contains(c.Rights, r) }

func checksum(body string) string {
	sum := crc32.ChecksumIEEE([]byte(body))
	return hex.EncodeToString([]byte{byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)})
}
