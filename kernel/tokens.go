package kernel

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/solo-os/solo/kernel/capability"
	"github.com/solo-os/solo/kernel/store"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

// loadTokens fills the table from the store. At the first boot, and when its file has
// been removed, it makes root's token: the store has only the hash of its secret, so a
// lost one cannot be written again.
func (k *Kernel) loadTokens(st store.State) error {
	file := filepath.Join(k.boot.GetStateDir(), "root.token")
	_, err := os.Lstat(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("root token: %w", err)
	}
	lost := err != nil
	for _, t := range st.Tokens {
		if len(t.GetSecretHash()) != len(capability.Capability{}.SecretHash) {
			return fmt.Errorf("token %s in the store has no hash", t.GetId())
		}
		if lost && t.GetScope() == "" {
			continue // the old root token
		}
		c := capability.Capability{ID: t.GetId(), Scope: t.GetScope()}
		copy(c.SecretHash[:], t.GetSecretHash())
		for _, r := range t.GetRights() {
			c.Rights = append(c.Rights, capability.Right(r))
		}
		k.tokens[c.ID] = c
	}
	if len(k.tokens) > 0 {
		return nil
	}
	return k.mintRoot(file)
}

func (k *Kernel) mintRoot(file string) error {
	var random [capability.Entropy]byte
	_, _ = rand.Read(random[:]) // never fails (crypto/rand)
	text, token := capability.Mint(random)
	c := capability.Capability{ID: token.ID, SecretHash: token.Hash, Rights: capability.AllRights()}
	rec := &controlv1.TokenRecord{Id: c.ID, SecretHash: c.SecretHash[:], CreatedUnixNano: time.Now().UnixNano()}
	for _, r := range c.Rights {
		rec.Rights = append(rec.Rights, string(r))
	}
	if err := writeSecret(file, text+"\n"); err != nil {
		return fmt.Errorf("root token: %w", err)
	}
	k.tokens[c.ID] = c
	k.record.commit(store.Change{PutToken: rec, Audit: []store.Entry{{
		Operation: "mint", Actor: "kernel", Object: c.ID, Result: "ok", Detail: [][2]string{{"rights", "all"}},
	}}}, func(err error) {
		if err != nil {
			k.fail(fmt.Errorf("root token: %w", err))
		}
	})
	return nil
}

// writeSecret replaces a file, readable by root only, durably.
func writeSecret(file, text string) error {
	next := file + ".new"
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(next, file); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(file))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
