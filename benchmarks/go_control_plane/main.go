// A minimal delta ADS server on go-control-plane, made as its own documentation recommends: a LinearCache for one type,
// the gRPC options of its example. It is driven like benchmarks/streams/server.py: a line of JSON in, a line out.
package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"os"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
)

type command struct {
	Do        string            `json:"do"`
	Acks      int64             `json:"acks"`
	Resources map[string]string `json:"resources"`
}

type plane struct {
	cache  *cache.LinearCache
	routes []*route.RouteConfiguration
	edits  int
	left   atomic.Int64
	done   chan time.Time
}

func main() {
	p := &plane{cache: cache.NewLinearCache(resource.RouteType), done: make(chan time.Time, 1)}
	callbacks := server.CallbackFuncs{StreamDeltaRequestFunc: p.heard}
	grpcServer := grpc.NewServer(
		grpc.MaxConcurrentStreams(1000000),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 5 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 30 * time.Second, PermitWithoutStream: true}),
	)
	discovery.RegisterAggregatedDiscoveryServiceServer(grpcServer, server.NewServer(context.Background(), p.cache, callbacks))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	go func() { check(grpcServer.Serve(listener)) }()
	answer(map[string]any{"port": listener.Addr().(*net.TCPAddr).Port})

	commands := bufio.NewReader(os.Stdin)
	for {
		line, err := commands.ReadBytes('\n')
		if err != nil {
			return
		}
		var asked command
		check(json.Unmarshal(line, &asked))
		switch asked.Do {
		case "load":
			answer(p.load(asked.Resources))
		case "change":
			answer(p.change(asked.Acks))
		case "collect":
			debug.FreeOSMemory() // so that its resident memory holds no garbage
			answer(map[string]any{})
		default:
			check(fmt.Errorf("no command is called %q", asked.Do))
		}
	}
}

// load serves these resources: name -> google.protobuf.Any of a RouteConfiguration, in hexadecimal.
func (p *plane) load(resources map[string]string) map[string]any {
	served := make(map[string]types.Resource, len(resources))
	for name, encoded := range resources {
		raw, err := hex.DecodeString(encoded)
		check(err)
		packed, decoded := &anypb.Any{}, &route.RouteConfiguration{}
		check(proto.Unmarshal(raw, packed))
		check(packed.UnmarshalTo(decoded))
		served[name] = decoded
		p.routes = append(p.routes, decoded)
	}
	p.cache.SetResources(served)
	return map[string]any{}
}

// change alters one resource, and waits until that many streams have acknowledged it.
func (p *plane) change(acks int64) map[string]any {
	changed := proto.Clone(p.routes[p.edits%len(p.routes)]).(*route.RouteConfiguration)
	p.edits++
	changed.VirtualHosts[0].Name = fmt.Sprintf("edit-%d", p.edits)
	p.left.Store(acks)
	cpu, started := cpuSeconds(), time.Now()
	check(p.cache.UpdateResource(changed.Name, changed))
	seconds := (<-p.done).Sub(started).Seconds()
	return map[string]any{"seconds": seconds, "cpu_s": cpuSeconds() - cpu}
}

func (p *plane) heard(_ int64, request *discovery.DeltaDiscoveryRequest) error {
	if request.GetResponseNonce() != "" && p.left.Add(-1) == 0 {
		p.done <- time.Now()
	}
	return nil
}

func cpuSeconds() float64 {
	var used syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &used))
	return time.Duration(used.Utime.Nano() + used.Stime.Nano()).Seconds()
}

func answer(value map[string]any) {
	encoded, err := json.Marshal(value)
	check(err)
	fmt.Println(string(encoded))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
