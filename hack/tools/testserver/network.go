package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
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

// send sends a UDP datagram and prints the first line of the answer.
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
	for try := 0; try < 3; try++ {
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
		fmt.Println(line)
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

// watch asks ten times a second for ten seconds, each time on a connection of its own, and prints when the ones were
// begun that failed, in milliseconds of Unix time.
func watch(url string) error {
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		begun := time.Now()
		if answer, err := client.Get(url); err != nil {
			fmt.Println(begun.UnixMilli())
		} else {
			answer.Body.Close()
		}
	}
	return nil
}

// connect says whether somebody listens for TCP.
func connect(address string) error {
	connection, err := net.DialTimeout("tcp4", address, 2*time.Second)
	if err != nil {
		return err
	}
	fmt.Println("connected")
	return connection.Close()
}

// dns answers every question for an IPv4 address with this one, on 5353.
func dns(address string) error {
	ip := net.ParseIP(address).To4()
	if ip == nil {
		return fmt.Errorf("what address is %q?", address)
	}
	socket, err := net.ListenPacket("udp4", ":5353")
	if err != nil {
		return err
	}
	buffer := make([]byte, 512)
	for {
		size, sender, err := socket.ReadFrom(buffer)
		if err != nil {
			return err
		}
		answer, err := resolve(buffer[:size], [4]byte(ip))
		if err != nil {
			fmt.Println(err)
			continue
		}
		if _, err := socket.WriteTo(answer, sender); err != nil {
			fmt.Println(err)
		}
	}
}

func resolve(question []byte, ip [4]byte) ([]byte, error) {
	var message dnsmessage.Message
	if err := message.Unpack(question); err != nil {
		return nil, err
	}
	if len(message.Questions) != 1 {
		return nil, errors.New("not one question")
	}
	asked := message.Questions[0]
	message.Response, message.RecursionAvailable, message.Additionals = true, true, nil
	if asked.Type == dnsmessage.TypeA {
		message.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: asked.Name, Type: asked.Type, Class: asked.Class, TTL: 5},
			Body:   &dnsmessage.AResource{A: ip},
		}}
	}
	return message.Pack()
}

// host is an address without its port.
func host(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return host
}
