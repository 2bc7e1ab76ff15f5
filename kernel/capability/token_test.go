package capability

import (
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

func TestParseRefuses(t *testing.T) {
	text, _ := Mint([Entropy]byte{1, 2, 3})
	for _, bad := range []string{"", "solo_", text[:len(text)-1], text + "0", "sole_" + text[5:], " " + text[1:]} {
		if _, err := Parse(bad); err == nil {
			t.Errorf("Parse(%q) accepts it", bad)
		}
	}
}

func TestRights(t *testing.T) {
	c := Capability{Rights: []Right{Status, Watch}}
	if !c.Has(Status) || c.Has(Kill) {
		t.Fatalf("rights of %v are wrong", c)
	}
}

func FuzzParse(f *testing.F) {
	text, _ := Mint([Entropy]byte{9})
	f.Add(text)
	f.Add("solo_")
	f.Fuzz(func(t *testing.T, s string) {
		if tok, err := Parse(s); err == nil && len(tok.ID) != idLen {
			t.Fatalf("Parse(%q) gave id %q", s, tok.ID)
		}
	})
}
