package blockmap

// This file holds Cache: all leaves of all maps, under one budget of bytes.

import "sync"

// sweep is how many leaves an eviction looks at for one that is cold, before it takes any.
const sweep = 64

// Cache keeps the leaves of all maps of a store within a budget: when a leaf is added over it, cold ones are dropped. The
// clock algorithm picks them: a hand goes round all leaves, passes those looked up since it last came by, drops the others.
type Cache struct {
	index  *Index
	budget int64 // bytes

	// mu guards what follows, the place of every leaf, and the shape of the directories of all maps: which pages and leaves
	// they have. It is taken with a region's lock held; the other way round only by TryLock.
	mu   sync.Mutex
	used int64
	hand *leaf // in a ring of all leaves; nil if there are none
}

// place is where a leaf is in its map and in the cache's ring. Guarded by Cache.mu; owner and region never change.
type place struct {
	in         *Map
	region     uint64
	prev, next *leaf
	size       int64 // bytes counted for it
}

// NewCache makes a cache of leaves loaded from x, of at most budget bytes. What is needed right now stays beyond that.
func NewCache(x *Index, budget int64) *Cache {
	return &Cache{index: x, budget: budget}
}

// Used returns the bytes the leaves and the directories of their maps take.
func (c *Cache) Used() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.used
}

// add puts a leaf into its map, whose region's lock is held, and makes room for it.
func (c *Cache) add(l *leaf) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.used += l.in.dir.put(l.region, l)
	l.size = l.bytes()
	c.used += l.size
	c.linkLocked(l)
	c.evictLocked(l)
}

// resized counts a leaf anew after a change. Its region's lock is held.
func (c *Cache) resized(l *leaf) {
	size := l.bytes()
	if size == l.size { // only who holds the region's lock writes it
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.used += size - l.size
	l.size = size
	c.evictLocked(l)
}

// drop takes the leaves of regions from up to, not including, to out of map m, all of whose locks are held.
func (c *Cache) drop(m *Map, from, to uint64) {
	for ; from < to; from = (from/pageLeaves + 1) * pageLeaves {
		c.dropPage(m, from, min(to, (from/pageLeaves+1)*pageLeaves))
	}
}

// dropPage is drop within one page: the cache's lock is not held for longer.
func (c *Cache) dropPage(m *Map, from, to uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for region := from; region < to; region++ {
		if l := m.dir.get(region); l != nil {
			c.removeLocked(l)
		}
	}
}

// evictLocked drops leaves until the budget is kept, or there are none it may take. It spares held, whose region's lock the
// caller holds.
func (c *Cache) evictLocked(held *leaf) {
	for c.used > c.budget && c.evictOneLocked(held) {
	}
}

// evictOneLocked goes round for a cold leaf; after sweep others a hot one will do, so that neither the time it takes nor
// what is over the budget can grow with the number of leaves.
func (c *Cache) evictOneLocked(held *leaf) bool {
	for step := range 2 * sweep {
		l := c.hand
		c.hand = l.next
		if l.hot.Load() {
			l.hot.Store(false)
			if step < sweep {
				continue
			}
		}
		if c.tryRemoveLocked(l, held) {
			return true
		}
	}
	return false
}

// tryRemoveLocked drops a leaf unless its region is locked by somebody else.
func (c *Cache) tryRemoveLocked(l, held *leaf) bool {
	if l == held {
		return false
	}
	lock := l.in.lock(l.region)
	if lock != held.in.lock(held.region) {
		if !lock.TryLock() {
			return false
		}
		defer lock.Unlock()
	}
	c.removeLocked(l)
	return true
}

func (c *Cache) removeLocked(l *leaf) {
	c.unlinkLocked(l)
	c.used -= l.size
	c.used += l.in.dir.put(l.region, nil)
}

// linkLocked puts a leaf right behind the hand: it is looked at last.
func (c *Cache) linkLocked(l *leaf) {
	if c.hand == nil {
		l.prev, l.next = l, l
		c.hand = l
		return
	}
	l.prev, l.next = c.hand.prev, c.hand
	l.prev.next, l.next.prev = l, l
}

func (c *Cache) unlinkLocked(l *leaf) {
	switch {
	case l.next == l:
		c.hand = nil
	case c.hand == l:
		c.hand = l.next
	}
	l.prev.next, l.next.prev = l.next, l.prev
	l.prev, l.next = nil, nil
}
