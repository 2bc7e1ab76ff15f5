// Package decode holds the tests of solo-init's decoder of the control protocol,
// sandbox/initproc/order.c and pb.c, which is written by hand in C. It is compiled with
// address and undefined-behaviour checks into a harness, and must accept exactly what
// Go's protobuf decodes within the limits of order.h, to the same values.
package decode
