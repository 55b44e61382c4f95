// A stock grpc-go client against an edge: go-client PLAN. It prints a line of JSON for each case, as tests/clients/plan.py says.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Plan is what the program is told.
type Plan struct {
	Address   string   `json:"address"`
	Authority string   `json:"authority"`
	Roots     string   `json:"roots"`
	Tokens    []string `json:"tokens"`
	Bulky     string   `json:"bulky"`
	Delta     string   `json:"delta"`
	Status    string   `json:"status"`
	Messages  string   `json:"messages"`
	Within    float64  `json:"within"`
	Omit      []string `json:"omit"`
}

// Row is what came of a case.
type Row struct {
	Case   string `json:"case"`
	Passed bool   `json:"passed"`
	Detail string `json:"detail"`
}

// bytesCodec passes messages through as they are.
type bytesCodec struct{}

func (bytesCodec) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (bytesCodec) Unmarshal(data []byte, v any) error { *v.(*[]byte) = data; return nil }
func (bytesCodec) Name() string                       { return "proto" }

func (p Plan) within() time.Duration { return time.Duration(p.Within * float64(time.Second)) }

func (p Plan) message(name string) []byte {
	content, err := os.ReadFile(filepath.Join(p.Messages, name))
	if err != nil {
		panic(err)
	}
	return content
}

// connect gives a connection of its own.
func (p Plan) connect(more ...grpc.DialOption) (*grpc.ClientConn, error) {
	roots := x509.NewCertPool()
	pem, err := os.ReadFile(p.Roots)
	if err != nil || !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("no roots in %s: %v", p.Roots, err)
	}
	options := append([]grpc.DialOption{
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots, ServerName: p.Authority})),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(bytesCodec{}), grpc.MaxCallRecvMsgSize(64<<20)),
	}, more...)
	return grpc.NewClient(p.Address, options...)
}

func bearing(ctx context.Context, token string, more ...string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, append([]string{"authorization", "Bearer " + token}, more...)...)
}

func open(ctx context.Context, c *grpc.ClientConn, path string, options ...grpc.CallOption) (grpc.ClientStream, error) {
	return c.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, path, options...)
}

// ask sends a message and waits for one.
func ask(call grpc.ClientStream, message []byte) ([]byte, error) {
	if err := call.SendMsg(&message); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	var answer []byte
	err := call.RecvMsg(&answer)
	return answer, err
}

// short makes a short call and gives its status.
func (p Plan) short(c *grpc.ClientConn, token string, more ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), p.within())
	defer cancel()
	question, answer := p.message("status"), []byte(nil)
	return c.Invoke(bearing(ctx, token, more...), p.Status, &question, &answer)
}

// lives says whether a call ends well when its client has nothing more to say.
func lives(call grpc.ClientStream) error {
	if err := call.CloseSend(); err != nil {
		return err
	}
	var answer []byte
	if err := call.RecvMsg(&answer); !errors.Is(err, io.EOF) {
		return fmt.Errorf("the call ended with %v", err)
	}
	return nil
}

// together opens so many calls on one connection at once, each with this first message.
func together(count int, name string) func(Plan) error {
	return func(p Plan) error {
		c, err := p.connect()
		if err != nil {
			return err
		}
		defer c.Close()
		ctx, cancel := context.WithTimeout(context.Background(), p.within())
		defer cancel()
		message, errs := p.message(name), make([]error, count)
		var waiting sync.WaitGroup
		for number := range count {
			waiting.Add(1)
			go func() {
				defer waiting.Done()
				call, err := open(bearing(ctx, p.Tokens[number%len(p.Tokens)]), c, p.Delta)
				if err == nil {
					_, err = ask(call, message)
				}
				errs[number] = err
			}()
		}
		waiting.Wait()
		lost := slices.DeleteFunc(errs, func(err error) bool { return err == nil })
		if len(lost) > 0 {
			return fmt.Errorf("answered %d of %d: %w", count-len(lost), count, lost[0])
		}
		return nil
	}
}

// on runs a case with a connection and an answered call of the first token on it.
func on(run func(context.Context, Plan, *grpc.ClientConn, grpc.ClientStream) error, more ...grpc.DialOption) func(Plan) error {
	return func(p Plan) error {
		c, err := p.connect(more...)
		if err != nil {
			return err
		}
		defer c.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 2*p.within())
		defer cancel()
		call, err := open(bearing(ctx, p.Tokens[0]), c, p.Delta)
		if err != nil {
			return err
		}
		if _, err := ask(call, p.message("first")); err != nil {
			return err
		}
		return run(ctx, p, c, call)
	}
}

func expect(err error, wanted codes.Code) error {
	if got := status.Code(err); got != wanted {
		return fmt.Errorf("%v instead of %v: %v", got, wanted, err)
	}
	return nil
}

func deadline(_ context.Context, p Plan, c *grpc.ClientConn, _ grpc.ClientStream) error {
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	call, err := open(bearing(ctx, p.Tokens[1]), c, p.Delta)
	if err != nil {
		return err
	}
	if _, err := ask(call, p.message("first")); err != nil {
		return err
	}
	for err == nil {
		var answer []byte
		err = call.RecvMsg(&answer)
	}
	if err := expect(err, codes.DeadlineExceeded); err != nil {
		return err
	}
	return p.short(c, p.Tokens[0])
}

func cancellation(_ context.Context, p Plan, c *grpc.ClientConn, other grpc.ClientStream) error {
	for number := range 50 {
		ctx, cancel := context.WithCancel(context.Background())
		call, err := open(bearing(ctx, p.Tokens[number%len(p.Tokens)]), c, p.Delta)
		if err == nil && number%3 == 1 {
			message := p.message("200kB")
			err = call.SendMsg(&message)
		} else if err == nil && number%3 == 2 {
			_, err = ask(call, p.message("200kB"))
		}
		cancel()
		if err != nil {
			return err
		}
	}
	return lives(other)
}

func compression(ctx context.Context, p Plan, c *grpc.ClientConn, other grpc.ClientStream) error {
	call, err := open(bearing(ctx, p.Tokens[1]), c, p.Delta, grpc.UseCompressor(gzip.Name))
	if err != nil {
		return err
	}
	if _, err := ask(call, p.message("200kB")); err != nil && status.Code(err) != codes.Unimplemented {
		return err
	}
	return lives(other)
}

// silence lets grpc-go's own pings go by; it sends none more often than every ten seconds.
func silence(_ context.Context, _ Plan, _ *grpc.ClientConn, call grpc.ClientStream) error {
	time.Sleep(11 * time.Second)
	return lives(call)
}

func longMetadata(size int, code codes.Code) func(context.Context, Plan, *grpc.ClientConn, grpc.ClientStream) error {
	return func(_ context.Context, p Plan, c *grpc.ClientConn, other grpc.ClientStream) error {
		var more []string
		for number := range size / 1000 {
			more = append(more, fmt.Sprintf("x-%d", number), string(make1000()))
		}
		err := p.short(c, p.Tokens[0], more...)
		if code == codes.OK && err != nil || code != codes.OK && err == nil {
			return fmt.Errorf("%d bytes of metadata: %v", size, err)
		}
		if err := p.short(c, p.Tokens[0]); err != nil {
			return err
		}
		return lives(other)
	}
}

func make1000() []byte {
	content := make([]byte, 1000)
	for at := range content {
		content[at] = 'v'
	}
	return content
}

func tooLong(ctx context.Context, p Plan, c *grpc.ClientConn, other grpc.ClientStream) error {
	call, err := open(bearing(ctx, p.Tokens[1]), c, p.Delta)
	if err != nil {
		return err
	}
	_, err = ask(call, p.message("9MB"))
	if err := expect(err, codes.ResourceExhausted); err != nil {
		return err
	}
	return lives(other)
}

func bulky(ctx context.Context, p Plan, c *grpc.ClientConn, _ grpc.ClientStream) error {
	call, err := open(bearing(ctx, p.Bulky), c, p.Delta)
	if err != nil {
		return err
	}
	answer, err := ask(call, p.message("first"))
	if err == nil && len(answer) < 5_000_000 {
		err = fmt.Errorf("%d bytes", len(answer))
	}
	return err
}

func refusals(ctx context.Context, p Plan, c *grpc.ClientConn, other grpc.ClientStream) error {
	if err := expect(p.short(c, "nonsense"), codes.Unauthenticated); err != nil {
		return err
	}
	var answer []byte
	call, err := open(ctx, c, p.Delta)
	if err == nil {
		err = call.RecvMsg(&answer)
	}
	if err := expect(err, codes.Unauthenticated); err != nil {
		return err
	}
	call, err = open(bearing(ctx, p.Tokens[0]), c, "/no/such")
	if err == nil {
		err = call.RecvMsg(&answer)
	}
	if err := expect(err, codes.Unimplemented); err != nil {
		return err
	}
	return lives(other)
}

func shortCalls(_ context.Context, p Plan, c *grpc.ClientConn, _ grpc.ClientStream) error {
	errs := make([]error, 300)
	var waiting sync.WaitGroup
	for number := range errs {
		waiting.Add(1)
		go func() {
			defer waiting.Done()
			errs[number] = p.short(c, p.Tokens[number%len(p.Tokens)])
		}()
	}
	waiting.Wait()
	return errors.Join(errs...)
}

func halfClose(_ context.Context, _ Plan, _ *grpc.ClientConn, call grpc.ClientStream) error {
	return lives(call)
}

var cases = []struct {
	name string
	run  func(Plan) error
}{
	{"1 call", together(1, "first")},
	{"8 calls, 200 kB each", together(8, "200kB")},
	{"16 calls, 200 kB each", together(16, "200kB")},
	{"32 calls, 200 kB each", together(32, "200kB")},
	{"8 calls, 1 MB each", together(8, "1MB")},
	{"256 calls", together(256, "first")},
	{"300 short calls", on(shortCalls)},
	{"deadline", on(deadline)},
	{"cancellation", on(cancellation)},
	{"half close", on(halfClose)},
	{"compression", on(compression)},
	{"keepalive", on(silence, grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: time.Second}))},
	{"16 kB of metadata", on(longMetadata(16_000, codes.OK))},
	{"100 kB of metadata", on(longMetadata(100_000, codes.ResourceExhausted))},
	{"message of 9 MB", on(tooLong)},
	{"answer of 5 MB", on(bulky)},
	{"refusals", on(refusals)},
}

func main() {
	var plan Plan
	content, err := os.ReadFile(os.Args[1])
	if err == nil {
		err = json.Unmarshal(content, &plan)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	out := json.NewEncoder(os.Stdout)
	for _, one := range cases {
		if slices.Contains(plan.Omit, one.name) {
			continue
		}
		row := Row{Case: one.name, Passed: true}
		if err := one.run(plan); err != nil {
			row.Passed, row.Detail = false, err.Error()
		}
		if err := out.Encode(row); err != nil {
			os.Exit(1)
		}
	}
}
