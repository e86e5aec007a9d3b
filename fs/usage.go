package fs

// Usage of the control files: what reading one that takes commands gives.

// usages are the control files: the name, and for those that take commands, what to write. A number without a name is of
// another version.
var usages = [controls]struct{ name, usage string }{
	controlCreate: {"create", `create: write one line, then read the answer from the same open file:
  NAME [description=TEXT] [files=FILE,FILE…] [hooks=SCRIPT,SCRIPT…] [memory=true]
or one JSON object: {"name": "…", "description": "…", "files": ["…"], "hooks": ["…"], "memory": false}
Takes a snapshot of all files of the VM, or of those given. A name or value with spaces goes in double quotes. Of the
policy's scripts all run, or those whose file name is given. With memory the snapshot has the machine's memory, too; the
policy must name its monitor, quiesce.qmp.
`},
	controlDelete: {"delete", `delete: write one line, then read the answer from the same open file:
  NAME [NAME…]
or one JSON object: {"name": "…"} or {"names": ["…", "…"]}
A..B stands for A, B and those in between, from B back to A as each grew from the one before.
Deletes the snapshots: all of them or, if one can't be, none. Their space comes back in the background.
`},
	controlRename: {"rename", `rename: write one line, then read the answer from the same open file:
  OLD NEW
or one JSON object: {"name": "OLD", "to": "NEW"}
`},
	controlRevert: {"revert", `revert: write one line, then read the answer from the same open file:
  NAME [files=FILE,FILE…] [discard=true] [force=true]
or one JSON object: {"name": "…", "files": ["…"], "discard": false, "force": false}
Makes the VM's files exactly the snapshot's. What they were is kept as before-revert-TIME unless discarded. With force
also under open files: the guest must then be reset at once.
`},
	controlPreview: {"preview", `preview: write one line, then read the answer from the same open file:
  NAME [files=FILE,FILE…] [force=true]
or one JSON object: {"name": "…", "files": ["…"], "force": false}
Makes the VM's files the snapshot's, or just those given, for a look: they can be written. commit goes on from there,
undo brings back what they were. With force also under open files: the guest must then be reset at once.
`},
	controlCommit: {"commit", `commit: write an empty line, then read the answer from the same open file.
Ends a preview: the VM goes on from what it shows. What its files were before is kept as before-commit-TIME.
`},
	controlUndo: {"undo", `undo: write an empty line, then read the answer from the same open file:
  [force=true]
or one JSON object: {"force": false}
Ends a preview: the VM's files are what they were before it, and what was written during it is gone. With force also
under open files: the guest must then be reset at once.
`},
	controlClone: {"clone", `clone: write one line, then read the answer from the same open file:
  NAME to=VM
or one JSON object: {"name": "…", "to": "…"}
Makes another VM that begins as the snapshot, at once and without copying data. Neither depends on the other after that.
`},
	controlPolicy: {"policy", `policy: write one JSON document; it becomes the VM's policy, and what it leaves out is as by default.
Reading the file gives the policy in full.
`},
	controlScrub: {"scrub", `scrub: write an empty line, then read the answer from the same open file.
Compares all data that has checksums with them; with much data that takes long. Guests go on.
`},
	controlFormat: {"format", `format: write the number of a version of the store's format, then read the answer from the same open file.
The store uses what that version has from then on, and programs that do not know it refuse the store. There is no way back.
`},
	controlTree:   {name: "tree"},
	controlList:   {name: "list"},
	controlStatus: {name: "status"},
	controlLog:    {name: "log"},
}
