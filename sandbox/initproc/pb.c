#include "pb.h"

#include <string.h>

static int varint(struct pb_in *in, uint64_t *v)
{
	*v = 0;
	for (int shift = 0; shift < 70; shift += 7) {
		if (in->p == in->end)
			return -1;
		uint8_t b = *in->p++;
		if (shift == 63 && b > 1)
			return -1;
		*v |= (uint64_t)(b & 0x7f) << shift;
		if (!(b & 0x80))
			return 0;
	}
	return -1;
}

int pb_next(struct pb_in *in, struct pb_field *f)
{
	uint64_t key;

	if (in->p == in->end)
		return 0;
	if (varint(in, &key) < 0 || key > UINT32_MAX || key >> 3 == 0)
		return -1;
	f->number = (uint32_t)key >> 3;
	f->is_bytes = 0;
	f->varint = 0;
	f->bytes.p = f->bytes.end = in->p;
	if (varint(in, &f->varint) < 0)
		return -1;
	switch (key & 7) {
	case 0:
		return 1;
	case 2:
		if (f->varint > (uint64_t)(in->end - in->p))
			return -1;
		f->is_bytes = 1;
		f->bytes.p = in->p;
		f->bytes.end = in->p + f->varint;
		in->p = f->bytes.end;
		return 1;
	default:
		return -1;
	}
}

static void put(struct pb_out *out, uint64_t v)
{
	while (v >= 0x80 && out->len < sizeof out->buf) {
		out->buf[out->len++] = (uint8_t)v | 0x80;
		v >>= 7;
	}
	if (out->len < sizeof out->buf)
		out->buf[out->len++] = (uint8_t)v;
}

void pb_put_varint(struct pb_out *out, uint32_t field, uint64_t v)
{
	if (v == 0)
		return;
	put(out, (uint64_t)field << 3);
	put(out, v);
}

void pb_put_bytes(struct pb_out *out, uint32_t field, const void *p, size_t len)
{
	if (out->len + len + 12 > sizeof out->buf)
		return;
	put(out, (uint64_t)field << 3 | 2);
	put(out, len);
	memcpy(out->buf + out->len, p, len);
	out->len += len;
}
