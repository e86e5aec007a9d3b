# Everything there is to run, for a Debian machine with Go and root.
#
#   make demo     see it work with a real guest, in about a minute
#   make test     all checks and tests
#   make soak     the load that it is built for, and long forms of tests: an hour or more
#   make bench    how fast it is, beside what is used otherwise
#   make build    bin/snapfs, one static binary

GO          ?= go
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

# What tests and demo use beside Go; gcc is for the race detector.
PACKAGES := qemu-system-x86 qemu-utils fio fuse3 busybox-static e2fsprogs xfsprogs btrfs-progs \
            kmod cpio util-linux qemu-guest-agent libvirt-clients gcc libc6-dev

# Packages where goroutines meet. Their long rows of single-threaded cases are sampled, and what is repaired offline, by one
# goroutine, is left out where it takes long.
RACE      := $(patsubst %/,./%,$(wildcard layer/ blockmap/ fs/ quiesce/))
RACE_SKIP := OfAnotherStore|RepairOfAJournal|LostJournalAfter

.PHONY: build deps check unit race integration test demo bench soak clean

build:
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/snapfs ./cmd/snapfs

# Installs only what is missing, and refreshes the package lists only if they do not do.
deps:
	@missing=; for p in $(PACKAGES); do \
	    dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; \
	done; \
	[ -z "$$missing" ] && exit 0; \
	echo "installing:$$missing"; \
	export DEBIAN_FRONTEND=noninteractive; \
	install="apt-get install -y -q --no-install-recommends"; \
	$$install $$missing </dev/null || { apt-get update -q </dev/null && $$install $$missing </dev/null; }

check:
	@files=$$(gofmt -l .); [ -z "$$files" ] || { echo "gofmt these:"; echo "$$files"; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...
	@sed -n '/^## Evidence/,$$p' docs/crash-safety.md | grep -oE '`[a-z/]+\.(Test|Fuzz)[A-Za-z0-9]+`' | tr -d '`' | while IFS=. read -r dir name; do \
	    grep -qs "^func $$name(" $$dir/*_test.go || { echo "docs/crash-safety.md names $$name, which $$dir does not have"; exit 1; }; \
	done

# What takes longest begins first, here and below. Where CI is set, of long rows of cases some are done, others each time.
unit: deps
	$(GO) test $(if $(CI),-short) -timeout=20m ./layer ./cmd/snapfs $$($(GO) list ./... | grep -v /integration)

race: deps
	CGO_ENABLED=1 $(GO) test -race -short -timeout=20m -skip='$(RACE_SKIP)' $(RACE)

# Real mounts and real guests, driven through the built binary.
integration: deps build
	SNAPFS_BIN=$(CURDIR)/bin/snapfs $(GO) test -count=1 -timeout=20m ./integration/...

test: deps build check unit race integration

demo: deps build
	$(GO) run ./integration/demo -snapfs bin/snapfs

# snapfs beside what is used otherwise, in three to four minutes, or with FULL=1 in up to an hour. Best on a machine that does
# nothing else; docs/performance.md says how to read it. BENCH="-only=reads -against=OLD" for parts, or for two binaries.
bench: deps build
	$(GO) run ./bench $(if $(FULL),-full) $(BENCH)

# The load that all of it is built for, in full; `make integration` has a short form of each. About an hour, of which:
#   TestSoak               10 minutes: 8 VMs that write and verify, with a snapshot of each a second, and workers killed
#   TestKillsUnderLargeIO  6 minutes, and TestOnce 5: KILLS workers killed
#   TestFleet…, TestBusyIndex   5 minutes: FLEET VMs, FLEET snapshots, RECORDS records in the index. Here, and nowhere else, time
#                          and memory have limits, so that the machine should do nothing else
#   TestRandom…            STEPS random operations, with kills, remounts and power losses
#   ./layer ./blockmap     all cases, of which CI does some
#   Test…Failure(s)        each thing that is asked of the host fails once, and is not sampled
#   Test…Model…            CHECKS runs of random operations on a store and a model, with crashes, power cuts, damage and restores
#   TestPowerReplay…       the power fails at POINTS points of a log of the device's writes, on each file system
SOAK    ?= 10m
KILLS   ?= 2000
FLEET   ?= 1000
RECORDS ?= 1000000
STEPS   ?= 20000
POINTS  ?= 200
CHECKS  ?= 40
soak: deps build
	SNAPFS_BIN=$(CURDIR)/bin/snapfs $(GO) test -count=1 -v -timeout=12h ./integration \
	    -run='TestSoak$$|TestKillsUnderLargeIO|TestFleet|TestBusyIndex|TestOnce$$|TestRandom|TestPowerReplay' \
	    -soak=$(SOAK) -kills=$(KILLS) -fleet=$(FLEET) -records=$(RECORDS) -steps=$(STEPS) -seed=0 -points=$(POINTS)
	$(GO) test -count=1 -timeout=2h ./layer ./blockmap
	$(GO) test -count=1 -v -timeout=2h ./layer ./blockmap -run='Failure|ThatFails' -every
	$(GO) test -count=1 -v -timeout=2h ./layer -run='Model' -rapid.checks=$(CHECKS) -rapid.steps=60

clean:
	rm -rf bin
