package fs

// The control file `policy`: reading gives the VM's policy in full, a write replaces it.

import (
	"bytes"
	"encoding/json"
	"slices"
	"syscall"

	"github.com/snapfs/snapfs/layer"
)

// policyAnswer is what a handle reads after it set a policy.
type policyAnswer struct {
	Policy layer.Policy `json:"policy"`
}

// renderPolicy writes a policy for people to edit.
func renderPolicy(p layer.Policy) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(p); err != nil {
		panic(err) // none of it can fail
	}
	return b.Bytes()
}

// setPolicy makes a document the VM's policy. What runs or is reached on the host is for root to say.
func (s *server) setPolicy(vm *layer.VM, document []byte, root bool) ([]byte, error) {
	err := s.replacePolicy(vm, document, root)
	if err != nil {
		return failed(err), s.noteCommand(vm.Name(), controlPolicy, err)
	}
	p := vm.Policy()
	_ = s.noteCommand(vm.Name(), controlPolicy, nil, "mode", p.Quiesce.Mode, "schedule", p.Schedule)
	s.options.PolicyChanged(vm)
	return marshal(policyAnswer{p}), nil
}

func (s *server) replacePolicy(vm *layer.VM, document []byte, root bool) error {
	if len(document) > maxCommand {
		return invalid("a policy of %d bytes: at most %d", len(document), maxCommand)
	}
	if len(bytes.TrimSpace(document)) == 0 {
		return invalid("policy: an empty document; {} is the policy by default")
	}
	p, err := layer.ParsePolicy(document)
	if err != nil {
		return err
	}
	s.policies.Lock()
	defer s.policies.Unlock()
	if key := changedForRoot(vm.Policy().Quiesce, p.Quiesce); key != "" && !root {
		return layer.Errorf(syscall.EPERM, "policy: only root may change quiesce.%s", key)
	}
	return vm.SetPolicy(p)
}

// changedForRoot names a key that differs and that only root may change, or is empty.
func changedForRoot(old, new layer.QuiescePolicy) string {
	switch {
	case !slices.Equal(old.Pre, new.Pre):
		return "pre"
	case !slices.Equal(old.Post, new.Post):
		return "post"
	case old.Agent != new.Agent:
		return "agent"
	case old.QMP != new.QMP:
		return "qmp"
	}
	return ""
}
