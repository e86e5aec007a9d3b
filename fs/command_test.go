package fs

import (
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/snapfs/snapfs/layer"
)

func TestParseCommand(t *testing.T) {
	for _, test := range []struct {
		which control
		text  string
		want  command
	}{
		{controlCreate, "a", command{names: []string{"a"}}},
		{controlCreate, "a\n", command{names: []string{"a"}}},
		{controlCreate, "  a \t\n", command{names: []string{"a"}}},
		{controlCreate, `"with spaces"`, command{names: []string{"with spaces"}}},
		{controlCreate, `"say \"hi\" \\o/"`, command{names: []string{`say "hi" \o/`}}},
		{controlCreate, `a description="two words"`, command{names: []string{"a"}, description: "two words"}},
		{controlCreate, `a "description=x"`, command{}},
		{controlCreate, `a description=`, command{names: []string{"a"}}},
		{controlCreate, `a description=x=y`, command{names: []string{"a"}, description: "x=y"}},
		{controlCreate, `a files=b,c`, command{names: []string{"a"}, files: []string{"b", "c"}}},
		{controlCreate, `a files="b c,d"`, command{names: []string{"a"}, files: []string{"b c", "d"}}},
		{controlCreate, `name=a`, command{names: []string{"a"}}},
		{controlCreate, `a=b`, command{names: []string{"a=b"}}},
		{controlCreate, `"name=a"`, command{names: []string{"name=a"}}},
		{controlCreate, `{"name": "a"}`, command{names: []string{"a"}}},
		{controlCreate, ` {"name": "a b", "description": "x\ny", "files": ["b,c"]} ` + "\n",
			command{names: []string{"a b"}, description: "x\ny", files: []string{"b,c"}}},
		{controlCreate, `a hooks=db,web`, command{names: []string{"a"}, hooks: []string{"db", "web"}}},
		{controlCreate, `{"name": "a", "hooks": ["db"]}`, command{names: []string{"a"}, hooks: []string{"db"}}},
		{controlDelete, "a b c", command{names: []string{"a", "b", "c"}}},
		{controlDelete, `a "x=1"`, command{names: []string{"a", "x=1"}}},
		{controlDelete, `names=a,b`, command{names: []string{"a", "b"}}},
		{controlDelete, `{"names": ["a", "b"]}`, command{names: []string{"a", "b"}}},
		{controlRename, "a b", command{names: []string{"a"}, to: "b"}},
		{controlRename, "a to=b", command{names: []string{"a"}, to: "b"}},
		{controlRename, "name=a to=b", command{names: []string{"a"}, to: "b"}},
		{controlRename, `{"name": "a", "to": "b"}`, command{names: []string{"a"}, to: "b"}},
		{controlRevert, "a", command{names: []string{"a"}}},
		{controlRevert, "a discard=true force=false", command{names: []string{"a"}, discard: true}},
		{controlRevert, `{"name": "a", "force": true, "files": ["x"]}`,
			command{names: []string{"a"}, force: true, files: []string{"x"}}},
		{controlCreate, "a memory=true", command{names: []string{"a"}, memory: true}},
		{controlCreate, `{"name": "a", "memory": true}`, command{names: []string{"a"}, memory: true}},
		{controlPreview, "a files=x force=true", command{names: []string{"a"}, force: true, files: []string{"x"}}},
		{controlClone, "a to=web2", command{names: []string{"a"}, to: "web2"}},
		{controlClone, `"a b" "web 2"`, command{names: []string{"a b"}, to: "web 2"}},
		{controlClone, `{"name": "a", "to": "web2"}`, command{names: []string{"a"}, to: "web2"}},
	} {
		got, err := parseCommand(test.which, []byte(test.text))
		if test.want.names == nil {
			require.Error(t, err, test.text)
			continue
		}
		require.NoError(t, err, test.text)
		require.Equal(t, test.want, got, test.text)
	}
}

// commit and undo are about no snapshot in particular.
func TestParseCommandWithoutName(t *testing.T) {
	for _, which := range []control{controlCommit, controlUndo} {
		for _, text := range []string{"", "\n", "  ", "{}"} {
			got, err := parseCommand(which, []byte(text))
			require.NoError(t, err, "%q", text)
			require.Equal(t, command{}, got)
		}
	}
	for _, text := range []string{"force=true", `{"force": true}`} {
		got, err := parseCommand(controlUndo, []byte(text))
		require.NoError(t, err)
		require.Equal(t, command{force: true}, got)
	}
}

func TestParseCommandRefusals(t *testing.T) {
	for _, test := range []struct {
		which control
		text  string
		says  string
	}{
		{controlCreate, "", "needs the name"},
		{controlCreate, "\n", "needs the name"},
		{controlCreate, "{}", "needs the name"},
		{controlCreate, `""`, ""}, // an empty name is the store's to refuse
		{controlCreate, "a b", "no key=value"},
		{controlCreate, "a\nb", "line break"},
		{controlCreate, `"a`, "not closed"},
		{controlCreate, `"a\n"`, `\ comes only before`},
		{controlCreate, `"a\`, `\ comes only before`},
		{controlCreate, "a colour=red", `unknown key "colour"`},
		{controlCreate, "a discard=true", "create takes no discard"},
		{controlCreate, "a to=b", "create takes no to"},
		{controlCreate, "a memory=1", `memory is true or false, not "1"`},
		{controlCreate, `{"name": "a", "memory": 1}`, "memory is true or false, not 1"},
		{controlRevert, "a memory=true", "revert takes no memory"},
		{controlCreate, `{"name": "a", "hooks": "none"}`, "hooks is an array"},
		{controlCreate, `{"name": "a", "hooks": []}`, "no script"},
		{controlRevert, "a hooks=db", "revert takes no hooks"},
		{controlCreate, "a description=x description=y", "given twice"},
		{controlCreate, "a name=b", "given twice"},
		{controlCreate, "a files=", "empty name"},
		{controlCreate, "a files=b,,c", "empty name"},
		{controlCreate, "a\xff", "UTF-8"},
		{controlCreate, `{"name": "a"`, "bad JSON"},
		{controlCreate, `{"name": "a"} b`, "not the end"},
		{controlCreate, `{"name": "a"} {}`, "not the end"},
		{controlCreate, `{"name": "a", "name": "b"}`, "given twice"},
		{controlCreate, `{"Name": "a"}`, `unknown key "Name"`},
		{controlCreate, `{"name": 1}`, "name is a string"},
		{controlCreate, `{"name": "a", "files": "b"}`, "files is an array"},
		{controlCreate, `{"name": "a", "files": []}`, "no file"},
		{controlCreate, `{"name": "a", "files": null}`, "files is an array"},
		{controlCreate, `{1: 2}`, "bad JSON"},
		{controlRename, "a", "old and the new"},
		{controlRename, "a b c", "no key=value"},
		{controlRename, "a b to=c", "given twice"},
		{controlRevert, "a force", "no key=value"},
		{controlRevert, "a force=yes", "true or false"},
		{controlRevert, `{"name": "a", "force": "true"}`, "true or false"},
		{controlDelete, "a b force=true", "delete takes no force"},
		{controlPreview, "", "needs the name"},
		{controlPreview, "a b", "no key=value"},
		{controlPreview, "a discard=true", "preview takes no discard"},
		{controlCommit, "a", "commit takes no name"},
		{controlCommit, "force=true", "commit takes no force"},
		{controlUndo, "a", "undo takes no name"},
		{controlUndo, `{"name": "a"}`, "undo takes no name"},
		{controlUndo, "a=b", `undo takes no name`},
		{controlClone, "a", "to=, that of the new VM"},
		{controlClone, "a b c", "no key=value"},
		{controlClone, "a to=b files=c", "clone takes no files"},
		{controlCreate, strings.Repeat("x", maxCommand+1), "at most 65536"},
	} {
		_, err := parseCommand(test.which, []byte(test.text))
		if test.says == "" {
			require.NoError(t, err, test.text)
			continue
		}
		require.ErrorContains(t, err, test.says, test.text)
		require.Equal(t, syscall.EINVAL, layer.Errno(err), test.text)
	}
}

// Whatever is written: no panic, and what is accepted has what its command needs and says nothing that it can't.
func FuzzParseCommand(f *testing.F) {
	var commands []control
	for _, which := range vmControls {
		if which.isWriter() && which != controlPolicy {
			commands = append(commands, which)
		}
	}
	for _, seed := range []string{
		"a", `"a b" description="c \"d\""`, "a b c", "a to=b", "names=a,b", "a discard=true force=true files=x,y",
		`{"name": "a", "files": ["b"], "discard": true}`, `{"names": ["a", "b"]}`, "a memory=true", "{", `"`, "=", "a =",
	} {
		for which := range commands {
			f.Add(uint8(which), []byte(seed))
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, text []byte) {
		w := commands[int(which)%len(commands)]
		c, err := parseCommand(w, text)
		if err != nil {
			require.Equal(t, syscall.EINVAL, layer.Errno(err))
			return
		}
		if w == controlCommit || w == controlUndo {
			require.Equal(t, command{force: c.force && w == controlUndo}, c)
			return
		}
		require.NotEmpty(t, c.names)
		require.True(t, w == controlDelete || len(c.names) == 1)
		require.Equal(t, w == controlRename || w == controlClone, c.to != "")
		require.True(t, w == controlRevert || !c.discard)
		require.True(t, w == controlRevert || w == controlPreview || !c.force)
		require.True(t, c.files == nil || len(c.files) > 0)
	})
}
