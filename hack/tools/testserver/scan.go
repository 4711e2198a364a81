package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// So many ports are tried at once.
	scanners = 256
	// A dropped SYN is sent again after 1 s and after 3 s.
	dialPatience = 5 * time.Second
	// A host sends few ICMP errors a second to one peer: a closed UDP port may answer only a later datagram.
	datagrams = 30
	// A scan that takes longer meets a firewall that drops nearly everything.
	scanPatience = 10 * time.Minute
)

// The states of a port, in the order in which they are printed.
const (
	open     = "open"
	refused  = "refused"
	timedOut = "timed out"
)

// scan tries every port of a list such as "22,8000-8080" by TCP or UDP, and prints the ports in each state, as such lists.
// A UDP port is open if it answers. Any other outcome than these three is an error.
func scan(protocol, address, list string) error {
	probe, ok := map[string]func(context.Context, string) error{"tcp": dial, "udp": knock}[protocol]
	if !ok {
		return fmt.Errorf("what protocol is %q?", protocol)
	}
	ports, err := parsePorts(list)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), scanPatience)
	defer cancel()
	states := make([]string, len(ports))
	failures := make([]error, len(ports))
	indices := make(chan int)
	var group sync.WaitGroup
	for range min(scanners, len(ports)) {
		group.Go(func() {
			for i := range indices {
				target := net.JoinHostPort(address, strconv.Itoa(ports[i]))
				states[i], failures[i] = state(probe(ctx, target))
			}
		})
	}
	for i := range ports {
		indices <- i
	}
	close(indices)
	group.Wait()
	if err := errors.Join(failures...); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("the scan did not end: %w", err)
	}
	for _, wanted := range []string{open, refused, timedOut} {
		var found []int
		for i, port := range ports {
			if states[i] == wanted {
				found = append(found, port)
			}
		}
		fmt.Printf("%s: %s\n", wanted, ranges(found))
	}
	return nil
}

func state(err error) (string, error) {
	switch {
	case err == nil:
		return open, nil
	case errors.Is(err, syscall.ECONNREFUSED):
		return refused, nil
	case isTimeout(err):
		return timedOut, nil
	}
	return "", err
}

func isTimeout(err error) bool {
	var known net.Error
	return errors.As(err, &known) && known.Timeout()
}

func dial(ctx context.Context, target string) error {
	dialer := net.Dialer{Timeout: dialPatience}
	connection, err := dialer.DialContext(ctx, "tcp4", target)
	if err != nil {
		return err
	}
	return connection.Close()
}

// knock sends datagrams until one is answered, or an ICMP error says that nobody listens.
func knock(ctx context.Context, target string) error {
	connection, err := net.Dial("udp4", target)
	if err != nil {
		return err
	}
	defer connection.Close()
	for range datagrams {
		if err = ctx.Err(); err != nil {
			return err
		}
		// An error that came for the last datagram may be told at this one.
		if _, err = connection.Write([]byte("is anyone there?")); err == nil {
			if err = connection.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
				return err
			}
			_, err = connection.Read(make([]byte, largest))
		}
		if !isTimeout(err) {
			return err
		}
	}
	return err
}

// parsePorts reads a list such as "22,8000-8080".
func parsePorts(list string) ([]int, error) {
	var ports []int
	for part := range strings.SplitSeq(list, ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		first, err := strconv.ParseUint(from, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("what ports are %q?", part)
		}
		last, err := strconv.ParseUint(to, 10, 16)
		if err != nil || last < first {
			return nil, fmt.Errorf("what ports are %q?", part)
		}
		for port := int(first); port <= int(last); port++ {
			ports = append(ports, port)
		}
	}
	slices.Sort(ports)
	return ports, nil
}

// ranges writes sorted ports as parsePorts reads them.
func ranges(ports []int) string {
	var parts []string
	for i := 0; i < len(ports); {
		end := i
		for end+1 < len(ports) && ports[end+1] == ports[end]+1 {
			end++
		}
		part := strconv.Itoa(ports[i])
		if end > i {
			part += "-" + strconv.Itoa(ports[end])
		}
		parts = append(parts, part)
		i = end + 1
	}
	return strings.Join(parts, ",")
}
