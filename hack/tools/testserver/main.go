// Command testserver is what the tests of real nodes run in containers:
//
//	testserver serve         answers HTTP on 8080 with the name of its pod, and UDP
//	testserver get URL       prints what URL answers
//	testserver ask URL [TOKEN [BODY]]  asks with a token, whoever answers, posts BODY if given; prints the status, too
//	testserver storm URL N   asks N times, each on a new connection, and prints how many were answered
//	testserver watch URL FILE  asks until FILE exists, and prints when it asked and what was answered
//	testserver send ADDR N   sends a UDP datagram of N bytes and prints what is answered, and at which try
//	testserver scan PROTOCOL IP PORTS  says which TCP or UDP ports are open, refuse, or do not answer
//	testserver forward ADDR TO  accepts TCP connections at ADDR, and passes them on
//	testserver health        answers gRPC's health protocol on 8081
//	testserver refuse DIR    answers HTTPS on 8443 as an admission webhook that refuses; DIR has tls.crt and tls.key
//	testserver eat           takes memory until it is killed
package main

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "testserver:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) == 0 {
		return errors.New("say what to do")
	}
	hostname, err := os.Hostname()
	if err != nil {
		return err
	}
	switch what, rest := arguments[0], arguments[1:]; {
	case what == "serve":
		http.HandleFunc("/", func(answer http.ResponseWriter, request *http.Request) {
			fmt.Printf("%s asks for %s\n", request.RemoteAddr, request.URL)
			fmt.Fprintf(answer, "this is %s", hostname)
		})
		http.HandleFunc("/sees", func(answer http.ResponseWriter, request *http.Request) {
			fmt.Fprintf(answer, "%s sees %s\n", hostname, host(request.RemoteAddr))
		})
		failed := make(chan error)
		go func() { failed <- echo(hostname) }()
		go func() { failed <- http.ListenAndServe(":8080", nil) }()
		fmt.Println("serving")
		return <-failed
	case what == "get" && len(rest) == 1:
		return get(rest[0])
	case what == "ask" && len(rest) > 0 && len(rest) < 4:
		return ask(rest[0], rest[1:])
	case what == "storm" && len(rest) == 2:
		return storm(rest[0], rest[1])
	case what == "watch" && len(rest) == 2:
		return watch(rest[0], rest[1])
	case what == "send" && len(rest) == 2:
		return send(rest[0], rest[1])
	case what == "scan" && len(rest) == 3:
		return scan(rest[0], rest[1], rest[2])
	case what == "forward" && len(rest) == 2:
		return forward(rest[0], rest[1])
	case what == "health" && len(rest) == 0:
		return answerHealth()
	case what == "refuse" && len(rest) == 1:
		http.HandleFunc("/", func(answer http.ResponseWriter, request *http.Request) {
			if err := refuse(answer, request, "refused by "+hostname); err != nil {
				http.Error(answer, err.Error(), http.StatusBadRequest)
			}
		})
		return http.ListenAndServeTLS(":8443", filepath.Join(rest[0], "tls.crt"), filepath.Join(rest[0], "tls.key"), nil)
	case what == "eat":
		for eaten := [][]byte{}; ; {
			bite := make([]byte, 1<<20)
			for page := 0; page < len(bite); page += 4096 {
				bite[page] = 1
			}
			eaten = append(eaten, bite)
		}
	}
	return fmt.Errorf("what is %q?", arguments)
}

func get(url string) error {
	client := http.Client{Timeout: patience}
	answer, err := client.Get(url)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	_, err = io.Copy(os.Stdout, answer.Body)
	return err
}

// ask trusts whoever answers: what is looked for is the answer.
func ask(url string, tokenAndBody []string) error {
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	if len(tokenAndBody) > 0 {
		request.Header.Set("Authorization", "Bearer "+tokenAndBody[0])
	}
	if len(tokenAndBody) > 1 {
		request.Method = http.MethodPost
		request.Header.Set("Content-Type", "application/json")
		request.Body = io.NopCloser(strings.NewReader(tokenAndBody[1]))
	}
	anyone := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	client := http.Client{Timeout: patience, Transport: anyone}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	fmt.Println(answer.Status)
	_, err = io.Copy(os.Stdout, answer.Body)
	return err
}

func refuse(answer http.ResponseWriter, request *http.Request, message string) error {
	var review struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Request    struct {
			UID string `json:"uid"`
		} `json:"request"`
	}
	if err := json.NewDecoder(request.Body).Decode(&review); err != nil {
		return err
	}
	answer.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(answer).Encode(map[string]any{
		"apiVersion": review.APIVersion,
		"kind":       review.Kind,
		"response": map[string]any{
			"uid":     review.Request.UID,
			"allowed": false,
			"status":  map[string]any{"message": message},
		},
	})
}
