package usage

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/cgroups"
)

func TestRecorderKeepsFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		r := Record(func() time.Duration { return time.Since(start) })
		time.Sleep(5 * time.Second)
		if got, want := r.Samples(), []time.Duration{2e9, 4e9, 5e9}; !slices.Equal(got, want) {
			t.Errorf("after five seconds %v, want %v", got, want)
		}
		time.Sleep(time.Hour)
		r.Stop()
		got := r.Samples()
		if len(got) > maxSamples || len(got) < maxSamples/3 {
			t.Fatalf("%d samples of an hour", len(got))
		}
		for i := range len(got) - 2 {
			if d := got[i+1] - got[i]; d != got[1]-got[0] {
				t.Errorf("samples are not evenly spaced: %v", got)
				break
			}
		}
	})
}

// TestVersion2 reads a cgroup of version 2, from files as a kernel shows them.
func TestVersion2(t *testing.T) {
	cgroups.TestMode = true // files may be anywhere
	t.Cleanup(func() { cgroups.TestMode = false })
	root := t.TempDir()
	pressure := "some avg10=1.50 avg60=0.20 avg300=0.00 total=123\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=45\n"
	for name, content := range map[string]string{
		"cgroup.controllers": "cpu io memory pids\n",
		"cpu.stat":           "usage_usec 3000\nuser_usec 2000\nsystem_usec 1000\nnr_periods 4\nnr_throttled 2\nthrottled_usec 7\n",
		"cpu.pressure":       pressure,
		"memory.stat":        "anon 100\nfile 200\nkernel_stack 16\npgfault 9\n",
		"memory.current":     "400\n", "memory.max": "max\n", "memory.peak": "500\n",
		"memory.swap.current": "30\n", "memory.swap.max": "max\n", "memory.swap.peak": "40\n",
		"io.stat":      "8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n8:16 rbytes=5 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n",
		"pids.current": "3\n", "pids.max": "max\n",
	} {
		if err := os.MkdirAll(filepath.Join(root, "a"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, "a", name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s := Cgroup{Root: root, Path: "a", Unified: true}.Read()
	s.Timestamp = time.Time{}
	got, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"timestamp":"0001-01-01T00:00:00Z",` +
		`"cpuStat":{"usageNanos":3000000,"userNanos":2000000,"systemNanos":1000000,"nrPeriods":4,"nrThrottled":2,"throttledNanos":7000,` +
		`"pressure":{"some":{"avg10":1.5,"avg60":0.2,"avg300":0,"total":123},"full":{"avg10":0,"avg60":0,"avg300":0,"total":45}}},` +
		`"memoryStat":{"swapBytes":30,"anon":100,"file":200,"kernelStack":16,"pgfault":9,"peak":500},` +
		`"ioStat":{"readBytes":15,"writeBytes":20,"discardBytes":0,"readIOs":2,"writeIOs":2,"discardIOs":0},"pidsStat":{"current":3}}`
	if string(got) != want {
		t.Errorf("read\n%s\nwant\n%s", got, want)
	}
}

func TestNoCgroup(t *testing.T) {
	for _, unified := range []bool{false, true} {
		s := Cgroup{Root: t.TempDir(), Path: "none", Unified: unified}.Read()
		if s.CPU != nil || s.Memory != nil || s.IO != nil || s.PIDs != nil {
			t.Errorf("unified %v: something out of nothing: %+v", unified, s)
		}
	}
}

func TestSystem(t *testing.T) {
	s := ReadSystem()
	if s.CPU == nil || s.CPU.User == 0 || s.Memory == nil || s.Memory.Total == nil || *s.Memory.Total < 1<<20 || s.Processes == nil {
		t.Errorf("the system is %+v", s)
	}
}
