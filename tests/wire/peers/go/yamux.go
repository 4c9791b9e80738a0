// hashicorp's yamux on the other end of a channel: a client whose streams are ttRPC connections or are filled with
// bytes, a server that serves ttRPC or echoes. Its keep-alive is off, as Kata 1.x had it.
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand"
	"net"
	"os"
	"sync"

	"github.com/containerd/ttrpc"
	"github.com/hashicorp/yamux"
)

const (
	streams     = 8
	streamBytes = 2 << 20
)

func settings() *yamux.Config {
	c := yamux.DefaultConfig()
	c.EnableKeepAlive = false
	c.LogOutput = os.Stderr
	return c
}

// Each of several streams at once: one is a ttRPC connection with all checks, the others carry bytes both ways.
func yamuxClient(path string) error {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	session, err := yamux.Client(conn, settings())
	if err != nil {
		return err
	}
	first, err := session.Open()
	if err != nil {
		return err
	}
	if err := runChecks(ttrpc.NewClient(first)); err != nil {
		return err
	}
	if _, err := session.Ping(); err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	fmt.Println("ok ping")
	return session.Close()
}

// Streams that the peer sends back as they are. (This library reads no more on a stream that it has closed.)
func yamuxPump(path string) error {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	session, err := yamux.Client(conn, settings())
	if err != nil {
		return err
	}
	var group sync.WaitGroup
	failures := make(chan error, streams)
	for i := 0; i < streams; i++ {
		group.Add(1)
		go func(seed int64) {
			defer group.Done()
			failures <- pumpOne(session, seed)
		}(int64(i))
	}
	group.Wait()
	for i := 0; i < streams; i++ {
		if err := <-failures; err != nil {
			return err
		}
	}
	fmt.Println("ok pump")
	return session.Close()
}

func pumpOne(session *yamux.Session, seed int64) error {
	stream, err := session.OpenStream()
	if err != nil {
		return err
	}
	sent := make([]byte, streamBytes)
	rand.New(rand.NewSource(seed)).Read(sent)
	wrote := make(chan error, 1)
	go func() {
		_, err := stream.Write(sent)
		wrote <- err
	}()
	got := make([]byte, streamBytes)
	if _, err := io.ReadFull(stream, got); err != nil {
		return err
	}
	if !bytes.Equal(got, sent) {
		return fmt.Errorf("stream %d: what came back is not what was sent", stream.StreamID())
	}
	if err := <-wrote; err != nil {
		return err
	}
	return stream.Close()
}

// A session for each connection; `serve` has each of them.
func yamuxListen(path string, serve func(*yamux.Session)) error {
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			session, err := yamux.Server(conn, settings())
			if err != nil {
				return
			}
			go serve(session)
		}
	}()
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func yamuxServer(path string) error {
	s, err := newServer()
	if err != nil {
		return err
	}
	return yamuxListen(path, func(session *yamux.Session) { _ = s.Serve(context.Background(), session) })
}

func yamuxEcho(path string) error {
	return yamuxListen(path, func(session *yamux.Session) {
		for {
			stream, err := session.AcceptStream()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(stream, stream)
				stream.Close()
			}()
		}
	})
}
