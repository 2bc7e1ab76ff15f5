package elfdeps_test

import (
	"os"
	"testing"

	"github.com/solo-os/solo/test/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.CheckMain(m)) }
