package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	patience = 5 * time.Second
	// The largest payload of a UDP datagram over IPv4.
	largest = 65507
)

// echo answers each UDP datagram on 8080 with "HOSTNAME sees SENDER, SIZE bytes", and as many bytes as came.
func echo(hostname string) error {
	socket, err := net.ListenPacket("udp4", ":8080")
	if err != nil {
		return err
	}
	buffer := make([]byte, largest)
	for {
		size, sender, err := socket.ReadFrom(buffer)
		if err != nil {
			return err
		}
		answer := []byte(fmt.Sprintf("%s sees %s, %d bytes\n", hostname, host(sender.String()), size))
		if len(answer) < size {
			answer = append(answer, make([]byte, size-len(answer))...)
		}
		if _, err := socket.WriteTo(answer, sender); err != nil {
			fmt.Println(err)
		}
	}
}

// send sends a UDP datagram, and prints the first line of the answer and how often it had to try.
func send(address, size string) error {
	length, err := strconv.Atoi(size)
	if err != nil || length < 0 || length > largest {
		return fmt.Errorf("what size is %q?", size)
	}
	connection, err := net.Dial("udp4", address)
	if err != nil {
		return err
	}
	defer connection.Close()
	buffer := make([]byte, largest)
	// Datagrams may be lost: that is no failure of the network, but never an answer is.
	for try := 1; try <= 3; try++ {
		if _, err = connection.Write(make([]byte, length)); err != nil {
			continue
		}
		if err = connection.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			return err
		}
		var received int
		if received, err = connection.Read(buffer); err != nil {
			continue
		}
		if received < length {
			return fmt.Errorf("%d bytes came back of %d", received, length)
		}
		line, _, _ := strings.Cut(string(buffer[:received]), "\n")
		fmt.Printf("%s, at try %d\n", line, try)
		return nil
	}
	return err
}

// storm asks so many times, each on a connection of its own, and prints how many were answered.
func storm(url, count string) error {
	wanted, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	answered := 0
	for range wanted {
		answer, err := client.Get(url)
		if err != nil {
			fmt.Println(err)
			continue
		}
		_, err = io.Copy(io.Discard, answer.Body)
		answer.Body.Close()
		if err == nil && answer.StatusCode == http.StatusOK {
			answered++
		}
	}
	fmt.Printf("%d of %d answered\n", answered, wanted)
	return nil
}

// watch asks about ten times a second until the file exists, each time on a connection of its own, and prints each time a
// line with when that was begun, in milliseconds of Unix time, and the answer, or "failed".
func watch(url, file string) error {
	client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	for ; ; time.Sleep(100 * time.Millisecond) {
		if _, err := os.Stat(file); err == nil {
			return nil
		}
		begun := time.Now().UnixMilli()
		said, err := answered(&client, url)
		if err != nil {
			said = "failed"
		}
		fmt.Println(begun, said)
	}
}

func answered(client *http.Client, url string) (string, error) {
	answer, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return string(body), err
}

// forward passes connections on.
func forward(address, to string) error {
	listener, err := net.Listen("tcp4", address)
	if err != nil {
		return err
	}
	fmt.Println("forwarding")
	for {
		from, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer from.Close()
			target, err := net.DialTimeout("tcp4", to, patience)
			if err != nil {
				fmt.Println(err)
				return
			}
			defer target.Close()
			go io.Copy(target, from)
			io.Copy(from, target)
		}()
	}
}

// host is an address without its port.
func host(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return host
}
