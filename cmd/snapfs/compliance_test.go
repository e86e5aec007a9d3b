package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/snapfs/snapfs/layer"
)

func TestComplianceIsToldOnce(t *testing.T) {
	p := newPlanned(t)
	c := newCompliance(p.store, p.events.Add, func([]*layer.VM) {}, func(*layer.VM) []string { return nil })
	v := p.vm("web", `{"limit": {"age": "1ns"}}`)
	p.vm("db", `{}`)
	told := func() int {
		c.look()
		return strings.Count(p.events.Text(""), "not-compliant vm=web reason=")
	}
	require.Zero(t, told())
	_, err := v.CreateSnapshot(layer.CreateOptions{Name: "old"})
	require.NoError(t, err)
	require.Equal(t, 1, told())
	require.Equal(t, 1, told())
	p.set(v, `{"limit": {"age": "1h"}}`)
	require.Equal(t, 1, told())
	require.Contains(t, p.events.Text("web"), " compliant vm=web")
	p.set(v, `{"limit": {"age": "1ns"}}`)
	require.Equal(t, 2, told(), "it is so again")
	require.NotContains(t, p.events.Text(""), "vm=db")
}
