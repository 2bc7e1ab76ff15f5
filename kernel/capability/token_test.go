package capability

import (
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestMintParse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var random [Entropy]byte
		copy(random[:], rapid.SliceOfN(rapid.Byte(), Entropy, Entropy).Draw(t, "random"))
		text, want := Mint(random)
		got, err := Parse(text)
		if err != nil || got != want {
			t.Fatalf("Parse(%q) = %v, %v; want %v", text, got, err, want)
		}
		c := Capability{ID: want.ID, SecretHash: want.Hash}
		if !c.Matches(got) {
			t.Fatal("a token does not match its own capability")
		}
		// Every change of one character is refused, or is not the same secret.
		i := rapid.IntRange(0, len(text)-1).Draw(t, "position")
		b := []byte(text)
		b[i] ^= byte(rapid.IntRange(1, 255).Draw(t, "flip"))
		if forged, err := Parse(string(b)); err == nil && forged == want {
			t.Fatalf("flipped token %q is accepted", b)
		}
	})
}

// TestForm: tokens are stored by clients and hashes by the kernel, so neither may change.
func TestForm(t *testing.T) {
	var counting, ones [Entropy]byte
	for i := range Entropy {
		counting[i], ones[i] = byte(i), 0xff
	}
	for _, c := range []struct {
		random     [Entropy]byte
		text, hash string
	}{
		{[Entropy]byte{}, "solo_00000000000000000000000000000000000000000000000000000000000000000000000000000000184548ef", "60e05bd1b195af2f94112fa7197a5c88289058840ce7c6df9693756bc6250f55"},
		{counting, "solo_000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223242526277ad9899c", "fc00dc6ea4a508dc8ff61a5d64e888c1062a391b80c7875607ac24af61ab17df"},
		{ones, "solo_ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff81e04791", "df0790f236013511e91fa4532fb7761f62320a51a3868dabf4a13fe5f53e3263"},
	} {
		text, token := Mint(c.random)
		if text != c.text || hex.EncodeToString(token.Hash[:]) != c.hash {
			t.Errorf("Mint gave %s with hash %x", text, token.Hash)
		}
		if len(text) != TokenLen || token.ID != text[5:5+idLen] {
			t.Errorf("%s has %d bytes and id %s", text, len(text), token.ID)
		}
		if got, err := Parse(text); err != nil || got != token {
			t.Errorf("Parse(%s) = %v, %v", text, got, err)
		}
	}
}

// resum gives a text the checksum that belongs to it.
func resum(text string) string {
	body := text[:len(text)-sumLen]
	return body + checksum(body)
}

func TestParseRefuses(t *testing.T) {
	text, token := Mint([Entropy]byte{1, 2, 3})
	bad := map[string]string{
		"nothing": "", "the prefix": prefix, "one byte less": text[:len(text)-1], "one byte more": text + "0",
		"another prefix": resum("sole_" + text[5:]), "a space": resum(" " + text[1:]), "a newline": text[:len(text)-1] + "\n",
		"a capital prefix": resum("SOLO_" + text[5:]), "capital digits": strings.Replace(text, "01", "0A", 1),
		"capitals all over": prefix + strings.ToUpper(text[5:]), "a letter after f": resum(text[:20] + "g" + text[21:]),
		"a character of two bytes": resum(text[:20] + "ä" + text[22:]), "NUL": resum(text[:20] + "\x00" + text[21:]),
		"no UTF-8": resum(text[:20] + "\xff" + text[21:]), "a slash": resum(text[:20] + "/" + text[21:]),
		"a colon": resum(text[:20] + ":" + text[21:]), "a backquote": resum(text[:20] + "`" + text[21:]),
		"a zero checksum": text[:len(text)-sumLen] + "00000000", "two tokens": text + text,
	}
	for name, s := range bad {
		if got, err := Parse(s); !errors.Is(err, ErrMalformed) || got != (Token{}) {
			t.Errorf("%s: Parse(%q) = %v, %v", name, s, got, err)
		}
	}
	// The checksum covers every place: no single change goes unseen, and one with a
	// right checksum is another token.
	c := Capability{ID: token.ID, SecretHash: token.Hash}
	for i := range len(text) {
		digit := byte('0')
		if text[i] == digit {
			digit = '1'
		}
		changed := text[:i] + string(digit) + text[i+1:]
		if got, err := Parse(changed); err == nil {
			t.Errorf("changed at %d: %v", i, got)
		}
		if i < len(prefix) || i >= TokenLen-sumLen {
			continue
		}
		got, err := Parse(resum(changed))
		if err != nil || got.ID == token.ID && c.Matches(got) {
			t.Errorf("changed at %d with its checksum: %v, %v", i, got, err)
		}
	}
}

func TestMatches(t *testing.T) {
	_, one := Mint([Entropy]byte{1})
	_, other := Mint([Entropy]byte{Entropy - 1: 1})
	c := Capability{ID: one.ID, SecretHash: one.Hash}
	if !c.Matches(one) || c.Matches(other) || c.Matches(Token{}) || c.Matches(Token{ID: one.ID}) {
		t.Error("a capability matches more than its own token, or not that")
	}
}

func TestRights(t *testing.T) {
	c := Capability{Rights: []Right{Status, Watch}}
	if !c.Has(Status) || c.Has(Kill) {
		t.Fatalf("rights of %v are wrong", c)
	}
	if (Capability{}).Has("") || (Capability{}).Has(Status) {
		t.Error("a capability without rights has one")
	}
	all := AllRights()
	for _, r := range all {
		if !(Capability{Rights: all}).Has(r) {
			t.Errorf("root lacks %s", r)
		}
	}
	if slices.Sort(all); len(slices.Compact(all)) != 10 {
		t.Errorf("the rights are %v", all)
	}
	if AllRights()[0] = "none"; AllRights()[0] != Deploy {
		t.Error("callers share one list of rights")
	}
}

func FuzzParse(f *testing.F) {
	text, _ := Mint([Entropy]byte{9})
	f.Add(text)
	f.Add("solo_")
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := Parse(s)
		if err != nil {
			if !errors.Is(err, ErrMalformed) || tok != (Token{}) {
				t.Fatalf("Parse(%q) = %v, %v", s, tok, err)
			}
			return
		}
		// What is taken is exactly what Mint makes.
		random, err := hex.DecodeString(s[len(prefix) : TokenLen-sumLen])
		if err != nil {
			t.Fatalf("Parse took %q: %v", s, err)
		}
		if text, same := Mint([Entropy]byte(random)); text != s || same != tok {
			t.Fatalf("Parse took %q, Mint makes %q", s, text)
		}
	})
}
