// One static program for the tests' pods: a model's stand-in, its caller, and the pause container.
//
//	model-server serve [-listen :8080] [-burn 20ms] [-drain 3s]
//	model-server call  [-listen :8099] [-rate 50] [-workers 4] [-reuse] URL
//	model-server pause
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) < 2 {
		fail(errors.New("usage: model-server serve|call|pause"))
	}
	ended, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	switch os.Args[1] {
	case "serve":
		serve(ended, os.Args[2:])
	case "call":
		call(ended, os.Args[2:])
	case "pause":
		go reap()
		<-ended.Done()
	default:
		fail(fmt.Errorf("unknown command %q", os.Args[1]))
	}
}

// serve answers every request with the name of its pod. Query parameters, or the flags, make it work: `sleep=1s` waits,
// `burn=20ms` computes for that long, `status=503` sets the answer's status. PUT /ready/on and /ready/off set what /healthz says, and GET
// /metrics says how many requests run now, as Prometheus reads it.
// After SIGTERM it goes on for the time of -drain, as a well-behaved server does while the news spreads.
func serve(ended context.Context, arguments []string) {
	flags := flag.NewFlagSet("serve", flag.ExitOnError)
	listen := flags.String("listen", ":8080", "address")
	burn := flags.Duration("burn", 0, "computing time of each request")
	drain := flags.Duration("drain", 3*time.Second, "time between SIGTERM and the end")
	_ = flags.Parse(arguments)
	name, _ := os.Hostname()
	var unready atomic.Bool

	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if unready.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("PUT /ready/on", func(http.ResponseWriter, *http.Request) { unready.Store(false) })
	mux.HandleFunc("PUT /ready/off", func(http.ResponseWriter, *http.Request) { unready.Store(true) })
	var running atomic.Int64
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		_, _ = fmt.Fprintf(w, "# TYPE model_requests_running gauge\nmodel_requests_running %d\n", running.Load())
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		running.Add(1)
		defer running.Add(-1)
		_, _ = io.Copy(io.Discard, r.Body)
		query := r.URL.Query()
		time.Sleep(duration(query.Get("sleep"), 0))
		compute(duration(query.Get("burn"), *burn))
		status := http.StatusOK
		_, _ = fmt.Sscan(query.Get("status"), &status)
		w.WriteHeader(status)
		_, _ = fmt.Fprintln(w, name)
	})

	server := &http.Server{Addr: *listen, Handler: mux}
	go func() {
		<-ended.Done()
		time.Sleep(*drain)
		_ = server.Shutdown(context.Background())
	}()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		fail(err)
	}
}

// compute uses a processor for a duration.
func compute(for_ time.Duration) {
	for end := time.Now().Add(for_); time.Now().Before(end); {
	}
}

func duration(text string, otherwise time.Duration) time.Duration {
	if parsed, err := time.ParseDuration(text); err == nil {
		return parsed
	}
	return otherwise
}

// Counts is what a caller has seen so far. A request that got no answer, or half of one, is an error.
type Counts struct {
	Requests  int            `json:"requests"`
	Answers   map[string]int `json:"answers"` // by status and body: "200 web-1"
	Errors    map[string]int `json:"errors"`  // by words
	SlowestMs int64          `json:"slowest_ms"`
}

func (c *Counts) add(answer string, err error, took time.Duration) {
	c.Requests++
	if err != nil {
		c.Errors[err.Error()]++
	} else {
		c.Answers[answer]++
	}
	c.SlowestMs = max(c.SlowestMs, took.Milliseconds())
}

// call sends requests until it is ended, and shows its counts at GET /. It counts those from the first answer on: until the rules of
// a new Service are in the kernel, nobody can expect one, nor can a request that began before. Until then GET / says what went wrong.
func call(ended context.Context, arguments []string) {
	flags := flag.NewFlagSet("call", flag.ExitOnError)
	listen := flags.String("listen", ":8099", "address of the counts")
	rate := flags.Float64("rate", 50, "requests a second, of all workers together")
	workers := flags.Int("workers", 4, "requests at a time")
	reuse := flags.Bool("reuse", false, "keep connections instead of a new one for each request")
	_ = flags.Parse(arguments)
	url := flags.Arg(0)

	counts := Counts{Answers: map[string]int{}, Errors: map[string]int{}}
	var lock sync.Mutex
	lastError := errors.New("no answer yet")
	var answered time.Time // for the first time
	ticks := time.NewTicker(time.Duration(float64(time.Second) / *rate))
	for range *workers {
		client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: !*reuse}}
		go func() {
			for range ticks.C {
				start := time.Now()
				answer, err := ask(client, url)
				lock.Lock()
				if lastError = err; err == nil && answered.IsZero() {
					answered = time.Now()
				}
				if err == nil || !answered.IsZero() && start.After(answered) {
					counts.add(answer, err, time.Since(start))
				}
				lock.Unlock()
			}
		}()
	}
	go func() {
		fail(http.ListenAndServe(*listen, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			lock.Lock()
			defer lock.Unlock()
			if counts.Requests == 0 {
				http.Error(w, lastError.Error(), http.StatusServiceUnavailable)
				return
			}
			_ = json.NewEncoder(w).Encode(counts)
		})))
	}()
	<-ended.Done()
}

// ask sends a POST, as inference is: unlike a GET nobody on the way sends it a second time when a connection breaks.
func ask(client *http.Client, url string) (string, error) {
	response, err := client.Post(url, "text/plain", strings.NewReader("Hello"))
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 200))
	return fmt.Sprintf("%d %s", response.StatusCode, bytes.TrimSpace(body)), err
}

// reap is the duty of a pod's first process.
func reap() {
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	for range children {
		for pid := 1; pid > 0; {
			pid, _ = syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		}
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
