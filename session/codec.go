package session

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// Codec is gRPC's protobuf codec, faster for messages with generated marshalling code:
// BytesMessage, which carries whole sessions, and the packets of a file transfer. Unlike
// the default it does not reset a message before filling it, so that buffers can be used
// again; messages received into must be empty. It is meant for grpc.ForceServerCodecV2
// and grpc.ForceCodecV2.
type Codec struct{}

var _ encoding.CodecV2 = Codec{}

type vtMessage interface {
	SizeVT() int
	MarshalToSizedBufferVT([]byte) (int, error)
	UnmarshalVT([]byte) error
}

// A SelfDecoder is a message that keeps the bytes it was received as. It must take a
// reference of what it keeps.
type SelfDecoder interface {
	Decode(mem.BufferSlice) error
}

// buffers are for messages.
var buffers Buffers

// Name implements encoding.CodecV2.
func (Codec) Name() string { return "proto" }

// Marshal implements encoding.CodecV2.
func (Codec) Marshal(v any) (mem.BufferSlice, error) {
	vt, ok := v.(vtMessage)
	if !ok {
		m, ok := v.(proto.Message)
		if !ok {
			return nil, fmt.Errorf("not a protobuf message")
		}
		b, err := proto.Marshal(m)
		return mem.BufferSlice{mem.SliceBuffer(b)}, err
	}
	n := vt.SizeVT()
	if mem.IsBelowBufferPoolingThreshold(n) {
		b := make([]byte, n)
		_, err := vt.MarshalToSizedBufferVT(b)
		return mem.BufferSlice{mem.SliceBuffer(b)}, err
	}
	b := buffers.Get(n)
	if _, err := vt.MarshalToSizedBufferVT((*b)[:n]); err != nil {
		buffers.Put(b)
		return nil, err
	}
	return mem.BufferSlice{mem.NewBuffer(b, buffers)}, nil
}

// Unmarshal implements encoding.CodecV2.
func (Codec) Unmarshal(data mem.BufferSlice, v any) error {
	if d, ok := v.(SelfDecoder); ok {
		return d.Decode(data)
	}
	buf := data.MaterializeToBuffer(buffers)
	defer buf.Free()
	switch m := v.(type) {
	case vtMessage:
		return m.UnmarshalVT(buf.ReadOnlyData())
	case proto.Message:
		return proto.UnmarshalOptions{Merge: true}.Unmarshal(buf.ReadOnlyData(), m)
	}
	return fmt.Errorf("not a protobuf message")
}
