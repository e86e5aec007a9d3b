// Package quiesce holds a virtual machine still for the instant in which its snapshot is taken, so that the snapshot is
// worth more than what a power failure would have left.
//
// # Model
//
// A [Session] goes along with one snapshot. Its steps stand between the snapshot's own, in this order:
//
//	Start   the pre scripts run, the guest agent or the monitor is reached and found sane
//	        (the snapshot flushes what is dirty and prepares its heads: nobody waits)
//	Hold    freeze, then the swap of heads, then thaw: the frozen window
//	        (the snapshot seals: the guest has long gone on)
//	End     the post scripts run, the connections are hung up, the label is final
//
// Below it are clients that can be used alone: [Agent] for the QEMU guest agent, [QMP] for QEMU's monitor. Both are
// reached over a unix socket or, where libvirt holds that socket, through virsh.
//
// # The frozen window
//
// From sending freeze to having thawed no more than [Policy].Timeout passes, which is 10 s at most: what Windows' VSS
// allows. The host keeps that time itself and thaws when it is over, whatever the swap is doing. Thaw is always sent: after
// an error of freeze, after no answer to it, over a new connection if the old one is stuck. It is sent without
// waiting for a sign of life, so that an agent that still works on freeze finds it next. One that cannot be thawed in
// time is left to [Release], in the background: behind a virtio port an agent does not get past the answer to
// freeze, and so not to thaw, while nobody is connected.
//
// Together a Session's calls wait for guest and monitor at most three times the timeout: once to reach them, once in the
// window, once to thaw a guest that did not answer in it. Scripts and a memory image come on top.
//
// # Crashes
//
// Before freeze or stop is sent, [Request].Mark writes down who is going to be held. Whoever finds that [Held] after a crash
// passes it to [Release] and then to [RunPost]. If the crash came before freeze, that thaws a guest that was not frozen, which
// is harmless. Before the first script, Mark writes down those that run at the end, until they have.
//
// # Trust
//
// The guest is not trusted. An agent that sends garbage without end, lies about its counts, answers late or never, costs
// the deadline, bounded memory, and its snapshot's label.
package quiesce
