// A ttRPC peer in another language: containerd's own library, as a client of our server and as a server for our
// client. Health's messages are wire-compatible with well-known ones (CheckRequest: a string in field 1, like
// StringValue; HealthCheckResponse: an enum in field 1, like Int32Value), so nothing is generated here.
//
//	peer yamux-client|yamux-pump PATH, peer yamux-server|yamux-echo PATH: the same over a channel (yamux.go)
//	peer client PATH    runs checks against the server at PATH, prints one line for each, exits 1 on the first failure
//	peer server PATH    serves grpc.Health and a confidential data hub (hub.go) on PATH until its stdin ends
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	health  = "grpc.Health"
	sandbox = "kata.agent.v1.Sandbox"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: peer client|server|yamux-client|yamux-pump|yamux-server|yamux-echo PATH")
		os.Exit(2)
	}
	run := map[string]func(string) error{
		"client": client, "server": server,
		"yamux-client": yamuxClient, "yamux-pump": yamuxPump, "yamux-server": yamuxServer, "yamux-echo": yamuxEcho,
	}[os.Args[1]]
	if err := run(os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "peer:", err)
		os.Exit(1)
	}
}

func client(path string) error {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	return runChecks(ttrpc.NewClient(conn))
}

func runChecks(c *ttrpc.Client) error {
	defer c.Close()
	checks := []struct {
		name string
		run  func(*ttrpc.Client) error
	}{
		{"check", check},
		{"unknown service", expect("no.Such", "Check", codes.InvalidArgument, "no.Such service does not exist")},
		{"unknown method", expect(health, "Nope", codes.Unimplemented, "Nope method")},
		{"not supported", expect("grpc.AgentService", "SetPolicy", codes.NotFound,
			"/grpc.AgentService/SetPolicy is not supported")},
		{"deadline", deadline},
		{"metadata", metadata},
		{"concurrent", concurrent},
		{"large", large},
		{"stream", stream},
	}
	for _, one := range checks {
		if err := one.run(c); err != nil {
			return fmt.Errorf("%s: %w", one.name, err)
		}
		fmt.Println("ok", one.name)
	}
	return nil
}

func call(c *ttrpc.Client, ctx context.Context, method, argument string) (string, error) {
	var answer wrapperspb.StringValue
	err := c.Call(ctx, health, method, wrapperspb.String(argument), &answer)
	return answer.Value, err
}

func check(c *ttrpc.Client) error {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	var answer wrapperspb.Int32Value
	if err := c.Call(ctx, health, "Check", &emptypb.Empty{}, &answer); err != nil {
		return err
	}
	if answer.Value != 1 {
		return fmt.Errorf("status %d, want SERVING", answer.Value)
	}
	return nil
}

func expect(service, method string, code codes.Code, text string) func(*ttrpc.Client) error {
	return func(c *ttrpc.Client) error {
		err := c.Call(context.Background(), service, method, &emptypb.Empty{}, &emptypb.Empty{})
		if status.Code(err) != code || status.Convert(err).Message() != text {
			return fmt.Errorf("got %v, want %v %q", err, code, text)
		}
		return nil
	}
}

// The handler named by "wait" answers only after the deadline; the server's own answer or the local timer comes first.
func deadline(c *ttrpc.Client) error {
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, err := call(c, ctx, "Version", "wait")
	if status.Code(err) != codes.DeadlineExceeded && err != context.DeadlineExceeded {
		return fmt.Errorf("got %v, want the deadline", err)
	}
	return check(c)
}

func metadata(c *ttrpc.Client) error {
	md := ttrpc.MD{}
	md.Set("traceparent", "00-1", "00-2")
	answer, err := call(c, ttrpc.WithMetadata(context.Background(), md), "Version", "metadata")
	if err == nil && answer != "traceparent=00-1,traceparent=00-2" {
		err = fmt.Errorf("the server saw %q", answer)
	}
	return err
}

func concurrent(c *ttrpc.Client) error {
	var group sync.WaitGroup
	failures := make(chan error, 200)
	for i := 0; i < 200; i++ {
		group.Add(1)
		go func(i int) {
			defer group.Done()
			want := fmt.Sprintf("echo %d", i)
			if got, err := call(c, context.Background(), "Version", want); err != nil || got != want {
				failures <- fmt.Errorf("call %d: %q, %v", i, got, err)
			}
		}(i)
	}
	group.Wait()
	close(failures)
	return <-failures
}

// Events answers with a stream; its request and its events have a string in field 1, like StringValue.
func open(c *ttrpc.Client, ctx context.Context, word string) (ttrpc.ClientStream, error) {
	desc := &ttrpc.StreamDesc{StreamingServer: true}
	return c.NewStream(ctx, desc, sandbox, "Events", wrapperspb.String(word))
}

func drain(s ttrpc.ClientStream) (int, error) {
	for count := 0; ; count++ {
		var event wrapperspb.StringValue
		if err := s.RecvMsg(&event); err != nil {
			return count, err
		}
		if event.Value != fmt.Sprint(count) {
			return count, fmt.Errorf("event %d is %q", count, event.Value)
		}
	}
}

func stream(c *ttrpc.Client) error {
	for _, count := range []int{0, 1, 1000} {
		s, err := open(c, context.Background(), fmt.Sprintf("count %d", count))
		if err != nil {
			return err
		}
		if got, err := drain(s); got != count || err != io.EOF {
			return fmt.Errorf("%d of %d events, %v", got, count, err)
		}
	}
	s, err := open(c, context.Background(), "fail 2")
	if err != nil {
		return err
	}
	if got, err := drain(s); got != 2 || status.Code(err) != codes.FailedPrecondition {
		return fmt.Errorf("a stream that fails: %d events, %v", got, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if s, err = open(c, ctx, "hang"); err != nil {
		return err
	}
	// The event that there is may come too late; what counts is that the stream's reader is let go.
	if got, err := drain(s); got > 1 || err != context.DeadlineExceeded {
		return fmt.Errorf("a stream beyond its deadline: %d events, %v", got, err)
	}
	return check(c)
}

func large(c *ttrpc.Client) error {
	want := strings.Repeat("x", 4*1024*1024-1024)
	if got, err := call(c, context.Background(), "Version", want); err != nil || got != want {
		return fmt.Errorf("%d bytes came back, %v", len(got), err)
	}
	// The answer has room for a little less than the request: what does not fit is a status, not a dead connection.
	_, err := call(c, context.Background(), "Version", "grow "+want)
	if status.Code(err) != codes.InvalidArgument {
		return fmt.Errorf("an answer beyond the limit: %v", err)
	}
	return check(c)
}

func newServer() (*ttrpc.Server, error) {
	s, err := ttrpc.NewServer()
	if err != nil {
		return nil, err
	}
	s.RegisterService(health, &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		"Check": func(_ context.Context, unmarshal func(interface{}) error) (interface{}, error) {
			return wrapperspb.Int32(1), unmarshal(&wrapperspb.StringValue{})
		},
		"Version": version,
	}})
	s.RegisterService(sandbox, &ttrpc.ServiceDesc{Streams: map[string]ttrpc.Stream{
		"Events": {Handler: events, StreamingServer: true},
	}})
	hub(s)
	return s, nil
}

func server(path string) error {
	s, err := newServer()
	if err != nil {
		return err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	go func() {
		io.Copy(io.Discard, os.Stdin)
		s.Close()
	}()
	fmt.Println("listening")
	if err := s.Serve(context.Background(), listener); err != ttrpc.ErrServerClosed {
		return err
	}
	return nil
}

func events(ctx context.Context, s ttrpc.StreamServer) (interface{}, error) {
	var request wrapperspb.StringValue
	if err := s.RecvMsg(&request); err != nil {
		return nil, err
	}
	var word string
	count := 0
	if _, err := fmt.Sscan(request.Value, &word, &count); err != nil {
		return nil, err
	}
	for i := 0; i < count; i++ {
		if err := s.SendMsg(wrapperspb.String(fmt.Sprint(i))); err != nil {
			return nil, err
		}
	}
	switch word {
	case "fail":
		return nil, status.Error(codes.FailedPrecondition, "not now")
	case "hang":
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return nil, nil
}

func version(ctx context.Context, unmarshal func(interface{}) error) (interface{}, error) {
	var request wrapperspb.StringValue
	if err := unmarshal(&request); err != nil {
		return nil, err
	}
	switch request.Value {
	case "fail":
		return nil, status.Error(codes.FailedPrecondition, "not now")
	case "wait":
		<-ctx.Done()
		return nil, ctx.Err()
	case "metadata":
		value, _ := ttrpc.GetMetadataValue(ctx, "traceparent")
		return wrapperspb.String(value), nil
	case "deadline":
		at, known := ctx.Deadline()
		return wrapperspb.String(fmt.Sprint(known, time.Until(at) < 50*time.Second)), nil
	}
	return wrapperspb.String(request.Value), nil
}
