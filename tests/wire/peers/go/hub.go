package main

import (
	"context"
	"strings"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// hub registers a confidential data hub: the first field of each message is a string or bytes, the others are not
// looked at, so well-known types stand for all of them.
func hub(s *ttrpc.Server) {
	s.RegisterService("api.ImagePullService", &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{"PullImage": pull}})
	s.RegisterService("api.SecureMountService", &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		"SecureMount": func(_ context.Context, unmarshal func(interface{}) error) (interface{}, error) {
			var kind wrapperspb.StringValue
			err := unmarshal(&kind)
			return wrapperspb.String("/mounted/" + kind.Value), err
		},
	}})
	s.RegisterService("api.GetResourceService", &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		"GetResource": func(_ context.Context, unmarshal func(interface{}) error) (interface{}, error) {
			var path wrapperspb.StringValue
			err := unmarshal(&path)
			return wrapperspb.Bytes([]byte("of " + path.Value)), err
		},
	}})
	s.RegisterService("api.SealedSecretService", &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		"UnsealSecret": func(_ context.Context, unmarshal func(interface{}) error) (interface{}, error) {
			var secret wrapperspb.BytesValue
			err := unmarshal(&secret)
			return wrapperspb.Bytes([]byte(strings.TrimPrefix(string(secret.Value), "sealed."))), err
		},
	}})
}

func pull(ctx context.Context, unmarshal func(interface{}) error) (interface{}, error) {
	var image wrapperspb.StringValue
	if err := unmarshal(&image); err != nil {
		return nil, err
	}
	switch image.Value {
	case "refuse":
		return nil, status.Error(codes.PermissionDenied, "the image is not signed")
	case "slow":
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return &emptypb.Empty{}, nil
}
