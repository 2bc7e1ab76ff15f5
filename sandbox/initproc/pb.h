// The part of the protobuf wire format that the control protocol uses
// (https://protobuf.dev/programming-guides/encoding): varints and length-delimited
// fields. Input is untrusted: every read is bounded by the end of the record.
#ifndef SOLO_PB_H
#define SOLO_PB_H

#include <stddef.h>
#include <stdint.h>

struct pb_in {
	const uint8_t *p, *end;
};

struct pb_field {
	uint32_t number;
	int is_bytes; // else a varint
	uint64_t varint;
	struct pb_in bytes;
};

// pb_next reads one field: 1, or 0 at the end, or -1 when the record is malformed.
int pb_next(struct pb_in *in, struct pb_field *f);

struct pb_out {
	uint8_t buf[512];
	size_t len;
};

// The writers drop what does not fit; solo-init's own reports are far smaller.
void pb_put_varint(struct pb_out *out, uint32_t field, uint64_t v);
void pb_put_bytes(struct pb_out *out, uint32_t field, const void *p, size_t len);

#endif
