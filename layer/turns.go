package layer

// Turns: how many of a VM's requests may wait for the store's disk at a time. Each of them takes a thread of this
// process, of which there is an end, so one VM must not have all of its queues wait there when the disk is slow.

const turnsOfVM = 64 // no disk is faster with more

// turns are as many as are free.
type turns chan struct{}

func newTurns() turns { return make(turns, turnsOfVM) }

func (t turns) take() { t <- struct{}{} }

func (t turns) giveBack() { <-t }
