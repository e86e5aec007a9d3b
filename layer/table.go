package layer

// A table: things by id, looked up on the way of every request.

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

// table is a map from ids, none of them 0, for many readers: Load takes no lock and allocates nothing. It is an open
// hash table; one that fills up is replaced by another.
type table[K ~uint64, V any] struct {
	mu    sync.Mutex // guards changes
	slots atomic.Pointer[[]tableSlot[V]]
	used  int // slots with an id, deleted ones too
}

// tableSlot gets its value before its id, and keeps the id when the value goes.
type tableSlot[V any] struct {
	id    atomic.Uint64
	value atomic.Pointer[V]
}

// Load returns nil if there is nothing of that id.
func (t *table[K, V]) Load(id K) *V {
	slots := t.slots.Load()
	if slots == nil {
		return nil
	}
	if slot := findSlot(*slots, uint64(id)); slot.id.Load() == uint64(id) {
		return slot.value.Load()
	}
	return nil
}

// findSlot finds the slot of an id, or the empty one where it would go. Half of the slots are always empty.
func findSlot[V any](slots []tableSlot[V], id uint64) *tableSlot[V] {
	// Fibonacci hashing: ids are given out one after the other.
	mask := uint64(len(slots) - 1)
	i := id * 0x9E3779B97F4A7C15 >> (64 - bits.Len64(mask))
	for {
		slot := &slots[i&mask]
		if at := slot.id.Load(); at == id || at == 0 {
			return slot
		}
		i++
	}
}

// Store puts a value in the place of what is there.
func (t *table[K, V]) Store(id K, value *V) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.store(id, value)
}

func (t *table[K, V]) store(id K, value *V) {
	if slots := t.slots.Load(); slots == nil || 2*t.used >= len(*slots) {
		t.rebuild()
	}
	slot := findSlot(*t.slots.Load(), uint64(id))
	slot.value.Store(value)
	if slot.id.Load() == 0 {
		slot.id.Store(uint64(id))
		t.used++
	}
}

// rebuild makes room, and leaves deleted ids behind.
func (t *table[K, V]) rebuild() {
	live := 0
	t.Range(func(*V) bool { live++; return true })
	slots := make([]tableSlot[V], max(16, 1<<bits.Len(uint(4*live))))
	if old := t.slots.Load(); old != nil {
		for i := range *old {
			if value := (*old)[i].value.Load(); value != nil {
				id := (*old)[i].id.Load()
				slot := findSlot(slots, id)
				slot.value.Store(value)
				slot.id.Store(id)
			}
		}
	}
	t.used = live
	t.slots.Store(&slots)
}

// LoadOrStore returns what is there, or puts value.
func (t *table[K, V]) LoadOrStore(id K, value *V) *V {
	t.mu.Lock()
	defer t.mu.Unlock()
	if there := t.Load(id); there != nil {
		return there
	}
	t.store(id, value)
	return value
}

// Delete takes out what is there.
func (t *table[K, V]) Delete(id K) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if slots := t.slots.Load(); slots != nil {
		findSlot(*slots, uint64(id)).value.Store(nil)
	}
}

// Range calls fn for each value, in no order, until it returns false. Changes meanwhile may be seen or not.
func (t *table[K, V]) Range(fn func(*V) bool) {
	slots := t.slots.Load()
	if slots == nil {
		return
	}
	for i := range *slots {
		if value := (*slots)[i].value.Load(); value != nil && !fn(value) {
			return
		}
	}
}
