package openstack_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/openstack"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/venvtest"
)

var updateSDK = flag.Bool("update-sdk", false, "write testdata/sdk/answers.json")

// sdkRow is a set of files and variables for openstacksdk and for us.
type sdkRow struct {
	name string
	// cloud, region and face are the requested name, region and interface. Optional.
	cloud, region, face string
	// env are the variables. HOME is set, too, unless it is "-".
	env map[string]string
	// files are below the working directory, where HOME is home.
	files map[string]string
	shape shape

	// refused is a part of our error, if neither logs in.
	refused string

	// ours is the reason for a difference: we fail if refused is set, and otherwise send the non-empty fields of want.
	ours string
	want reached
}

// sdkAnswer is what openstacksdk did with a row.
type sdkAnswer struct {
	Error string  `json:"error,omitempty"` // its class
	Sent  reached `json:"sent"`
}

const sdkAnswers = "testdata/sdk/answers.json"

// The real openstacksdk and our client log in and look up a server at the same cloud with the same files and variables.
// Account, scope, URLs of login and lookup, and certificates must be the same.
//
// testdata/sdk/answers.json has the answers of openstacksdk, for machines without Python and for -short. Otherwise the
// test compares them with the real openstacksdk; -update-sdk writes them.
func TestSameAsOpenStackSDK(t *testing.T) {
	ca := newAuthority(t)
	clouds, dirs := make([]*sdkCloud, len(sdkRows)), make([]string, len(sdkRows))
	names := map[string]bool{}
	for i, row := range sdkRows {
		if names[row.name] {
			t.Fatalf("two rows have the name %q", row.name)
		}
		names[row.name] = true
		clouds[i], dirs[i] = newSDKCloud(t, row.shape, ca), t.TempDir()
		files := maps.Clone(ca.files)
		for name, content := range ca.files {
			files["home/"+name] = content
		}
		for name, content := range row.files {
			files[name] = clouds[i].fill(content, dirs[i])
		}
		writeFiles(t, dirs[i], files)
	}
	kept := keptAnswers(t)
	if python, err := sdkPython(t); err != nil {
		if os.Getenv("CI") == "true" && !testing.Short() || *updateSDK {
			t.Fatalf("openstacksdk: %v", err)
		}
		t.Logf("SKIPPED: openstacksdk is not run; the answers of %s are used: %v", sdkAnswers, err)
	} else {
		asked := askSDK(t, python, clouds, dirs)
		if *updateSDK {
			keepAnswers(t, asked)
			kept = asked
		}
		if diff := cmp.Diff(kept, asked); diff != "" {
			t.Errorf("%s is outdated (-file +openstacksdk); -update-sdk writes it:\n%s", sdkAnswers, diff)
		}
		kept = asked
	}

	for i, row := range sdkRows {
		t.Run(row.name, func(t *testing.T) {
			sdk := kept[row.name]
			got, err := row.send(t, clouds[i], dirs[i])
			if problem := row.compare(sdk, got, err); problem != "" {
				t.Error(problem)
			}
		})
	}
}

// compare returns what is wrong with our result, "" for nothing.
func (row sdkRow) compare(sdk sdkAnswer, got reached, err error) string {
	switch {
	case row.ours == "" && row.refused == "" && sdk.Error != "":
		return fmt.Sprintf("openstacksdk fails with %s; our error is %v", sdk.Error, err)
	case row.ours == "" && row.refused != "" && sdk.Error == "":
		return fmt.Sprintf("openstacksdk succeeds: %+v; our error is %v", sdk.Sent, err)
	case row.refused != "" && err == nil:
		return fmt.Sprintf("we succeed: %+v", got)
	case row.refused != "" && !strings.Contains(err.Error(), row.refused):
		return fmt.Sprintf("our message is not %q: %v", row.refused, err)
	case row.refused != "":
		return ""
	case err != nil:
		return fmt.Sprintf("%v; what was sent: %+v", err, got)
	case row.ours == "":
		if diff := cmp.Diff(sdk.Sent, got); diff != "" {
			return fmt.Sprintf("(-openstacksdk +ours)\n%s", diff)
		}
		return ""
	}
	// The intended differences, and the rest as with openstacksdk.
	want := row.want
	if want.Login == "" {
		want.Login = sdk.Sent.Login
	}
	if want.Body == nil {
		want.Body = sdk.Sent.Body
	}
	if want.Lookup == "" {
		want.Lookup = sdk.Sent.Lookup
	}
	if text, ok := want.Body.(string); ok {
		if err := json.Unmarshal([]byte(text), &want.Body); err != nil {
			return err.Error()
		}
	}
	if diff := cmp.Diff(sdk.Sent, got); diff == "" {
		return "we do the same as openstacksdk: take `ours` away"
	}
	if diff := cmp.Diff(want, got); diff != "" {
		return fmt.Sprintf("(-wanted +ours)\n%s", diff)
	}
	return ""
}

// environ returns the variables of the row.
func (row sdkRow) environ(c *sdkCloud, dir string) map[string]string {
	env := map[string]string{"HOME": filepath.Join(dir, "home")}
	for name, value := range row.env {
		env[name] = c.fill(value, dir)
	}
	maps.DeleteFunc(env, func(_, value string) bool { return value == "-" })
	return env
}

// send makes our client log in and look web up.
func (row sdkRow) send(t *testing.T, cloud *sdkCloud, dir string) (reached, error) {
	t.Helper()
	cleanEnvironment(t)
	for _, name := range []string{"HOME", "XDG_CONFIG_DIRS"} {
		if err := os.Unsetenv(name); err != nil { // cleanEnvironment restores HOME
			t.Fatal(err)
		}
	}
	setenv(t, row.environ(cloud, dir))
	t.Chdir(dir)
	cfg := config()
	cfg.Cloud, cfg.Region, cfg.Interface = row.cloud, row.region, row.face
	c, err := tryNew(t, cfg, openstack.Options{})
	if err != nil {
		return reached{}, err
	}
	defer c.Close()
	if _, err = c.Connect(t.Context()); err == nil {
		_, err = ask(t, c, web)
	}
	checkDiscreet(t, err)
	sent := cloud.take()
	sent.Unverified = c.Unverified()
	return sent, err
}

// askSDK makes openstacksdk do the same for all rows.
func askSDK(t *testing.T, python string, clouds []*sdkCloud, dirs []string) map[string]sdkAnswer {
	t.Helper()
	type question struct {
		Env   map[string]string `json:"env"`
		Dir   string            `json:"cwd"`
		Asked map[string]string `json:"asked"`
	}
	var questions []question
	for i, row := range sdkRows {
		asked := map[string]string{"cloud": row.cloud, "region_name": row.region, "interface": row.face}
		maps.DeleteFunc(asked, func(_, value string) bool { return value == "" })
		questions = append(questions, question{row.environ(clouds[i], dirs[i]), dirs[i], asked})
	}
	in, err := json.Marshal(questions)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, python, "testdata/sdk/ask.py")
	cmd.Stdin = bytes.NewReader(in)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var said []struct {
		Error      string
		Unverified bool
	}
	if err == nil {
		err = json.Unmarshal(out, &said)
	}
	if err != nil || len(said) != len(sdkRows) {
		t.Fatalf("openstacksdk: %v\n%s", err, stderr.String())
	}
	answers := map[string]sdkAnswer{}
	for i, row := range sdkRows {
		class, text, _ := strings.Cut(said[i].Error, ": ")
		sent := clouds[i].take()
		sent.Unverified = said[i].Unverified
		answers[row.name] = sdkAnswer{class, sent}
		if class != "" && row.refused == "" && row.ours == "" {
			t.Logf("%s: openstacksdk says %s: %s", row.name, class, text)
		}
	}
	return answers
}

// sdkPython returns a Python with openstacksdk. It is installed in the user's cache, once for each requirements.txt.
func sdkPython(t *testing.T) (string, error) {
	t.Helper()
	if testing.Short() {
		return "", errors.New("-short")
	}
	return venvtest.Python(t.Context(), "testdata/sdk/requirements.txt", "openstack")
}

func keptAnswers(t *testing.T) map[string]sdkAnswer {
	t.Helper()
	kept := map[string]sdkAnswer{}
	data, err := os.ReadFile(sdkAnswers)
	if err == nil {
		err = json.Unmarshal(data, &kept)
	}
	if err != nil && !*updateSDK {
		t.Fatal(err)
	}
	return kept
}

func keepAnswers(t *testing.T, answers map[string]sdkAnswer) {
	t.Helper()
	var lines []string // one for each row
	for _, name := range slices.Sorted(maps.Keys(answers)) {
		line, err := json.Marshal(map[string]sdkAnswer{name: answers[name]})
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, strings.TrimSuffix(strings.TrimPrefix(string(line), "{"), "}"))
	}
	if err := os.WriteFile(sdkAnswers, []byte("{\n"+strings.Join(lines, ",\n")+"\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}
