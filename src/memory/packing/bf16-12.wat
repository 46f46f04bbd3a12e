;; Packs bf16 weights to 12 bits and back, 32 elements at a time. The format is described in format.ts.
;; It keeps nothing in memory between calls, and never looks at a byte outside the ranges its caller names:
;; checking those is the caller's work. Compiled by scripts/build-wasm.mjs.
;;
;; A bf16 is   s eeeeeeee mmmmmmm   from the highest bit to the lowest. Rotated left by one bit it is
;;             eeeeeeee | mmmmmmm s
;; so that the exponent is one byte and the rest another: only the first is worth coding.
(module
  (import "host" "memory" (memory 1))

  ;; Unpacks `groups` groups of 48 bytes at `from` to 64 bytes each at `to`. `low` and `high` are the table of exponents.
  ;; A group is loaded whole before any of it is stored, so `to` may run up to `from` from below.
  (func (export "unpack")
    (param $from i32) (param $to i32) (param $groups i32) (param $low i64) (param $high i64)
    (local $table v128) (local $first v128) (local $second v128) (local $codes v128) (local $exponents v128)
    (local $rotated v128)
    (local.set $table (i64x2.replace_lane 1 (i64x2.splat (local.get $low)) (local.get $high)))
    (block $done
      (br_if $done (i32.eqz (local.get $groups)))
      (loop $group
        (local.set $first (v128.load (local.get $from)))
        (local.set $second (v128.load offset=16 (local.get $from)))
        (local.set $codes (v128.load offset=32 (local.get $from)))

        ;; elements 0-15: the low nibbles
        (local.set $exponents
          (i8x16.swizzle (local.get $table) (v128.and (local.get $codes) (i8x16.splat (i32.const 0x0f)))))
        (local.set $rotated
          (i8x16.shuffle 0 16 1 17 2 18 3 19 4 20 5 21 6 22 7 23 (local.get $first) (local.get $exponents)))
        (v128.store (local.get $to)
          (v128.or
            (i16x8.shr_u (local.get $rotated) (i32.const 1))
            (i16x8.shl (local.get $rotated) (i32.const 15))))
        (local.set $rotated
          (i8x16.shuffle 8 24 9 25 10 26 11 27 12 28 13 29 14 30 15 31 (local.get $first) (local.get $exponents)))
        (v128.store offset=16 (local.get $to)
          (v128.or
            (i16x8.shr_u (local.get $rotated) (i32.const 1))
            (i16x8.shl (local.get $rotated) (i32.const 15))))

        ;; elements 16-31: the high nibbles
        (local.set $exponents
          (i8x16.swizzle (local.get $table)
            (v128.and (i16x8.shr_u (local.get $codes) (i32.const 4)) (i8x16.splat (i32.const 0x0f)))))
        (local.set $rotated
          (i8x16.shuffle 0 16 1 17 2 18 3 19 4 20 5 21 6 22 7 23 (local.get $second) (local.get $exponents)))
        (v128.store offset=32 (local.get $to)
          (v128.or
            (i16x8.shr_u (local.get $rotated) (i32.const 1))
            (i16x8.shl (local.get $rotated) (i32.const 15))))
        (local.set $rotated
          (i8x16.shuffle 8 24 9 25 10 26 11 27 12 28 13 29 14 30 15 31 (local.get $second) (local.get $exponents)))
        (v128.store offset=48 (local.get $to)
          (v128.or
            (i16x8.shr_u (local.get $rotated) (i32.const 1))
            (i16x8.shl (local.get $rotated) (i32.const 15))))

        (local.set $from (i32.add (local.get $from) (i32.const 48)))
        (local.set $to (i32.add (local.get $to) (i32.const 64)))
        (br_if $group (local.tee $groups (i32.sub (local.get $groups) (i32.const 1)))))))

  ;; Counts the exponents of `quads` times four elements at `from` into four tables of 256 counters of u32 at `counts`.
  ;; Four tables, because a counter that is added to twice in a row has to wait for itself.
  (func (export "count") (param $from i32) (param $quads i32) (param $counts i32)
    (local $four i64) (local $counter i32)
    (block $done
      (br_if $done (i32.eqz (local.get $quads)))
      (loop $quad
        (local.set $four (i64.load (local.get $from)))
        ;; The exponent is bits 7-14 of an element; two bits further left it is the address of its counter.
        (local.set $counter (i32.add (local.get $counts)
          (i32.and (i32.wrap_i64 (i64.shr_u (local.get $four) (i64.const 5))) (i32.const 0x3fc))))
        (i32.store (local.get $counter) (i32.add (i32.load (local.get $counter)) (i32.const 1)))
        (local.set $counter (i32.add (local.get $counts)
          (i32.and (i32.wrap_i64 (i64.shr_u (local.get $four) (i64.const 21))) (i32.const 0x3fc))))
        (i32.store offset=1024 (local.get $counter)
          (i32.add (i32.load offset=1024 (local.get $counter)) (i32.const 1)))
        (local.set $counter (i32.add (local.get $counts)
          (i32.and (i32.wrap_i64 (i64.shr_u (local.get $four) (i64.const 37))) (i32.const 0x3fc))))
        (i32.store offset=2048 (local.get $counter)
          (i32.add (i32.load offset=2048 (local.get $counter)) (i32.const 1)))
        (local.set $counter (i32.add (local.get $counts)
          (i32.and (i32.wrap_i64 (i64.shr_u (local.get $four) (i64.const 53))) (i32.const 0x3fc))))
        (i32.store offset=3072 (local.get $counter)
          (i32.add (i32.load offset=3072 (local.get $counter)) (i32.const 1)))
        (local.set $from (i32.add (local.get $from) (i32.const 8)))
        (br_if $quad (local.tee $quads (i32.sub (local.get $quads) (i32.const 1)))))))

  ;; Packs `groups` groups of 64 bytes at `from` to 48 bytes each at `to`, with the 16 exponents at `table`.
  ;; Elements whose exponent is not in the table get code 0; their indices, counted from the first element at `from`,
  ;; go to `indices` (u32) and their bits to `values` (u16). Returns how many those are.
  (func (export "pack")
    (param $from i32) (param $groups i32) (param $to i32) (param $table i32) (param $indices i32) (param $values i32)
    (result i32)
    (local $a v128) (local $b v128) (local $c v128) (local $d v128)
    (local $first v128) (local $second v128) ;; exponents of elements 0-15 and 16-31
    (local $low v128) (local $high v128) ;; their codes, with bit 7 set where there is one
    (local $exponent v128) (local $code v128) (local $k i32)
    (local $missing i32) (local $lane i32) (local $base i32) (local $exceptions i32)
    (block $done
      (br_if $done (i32.eqz (local.get $groups)))
      (loop $group
        (local.set $a (v128.load (local.get $from)))
        (local.set $b (v128.load offset=16 (local.get $from)))
        (local.set $c (v128.load offset=32 (local.get $from)))
        (local.set $d (v128.load offset=48 (local.get $from)))
        (local.set $a
          (v128.or (i16x8.shl (local.get $a) (i32.const 1)) (i16x8.shr_u (local.get $a) (i32.const 15))))
        (local.set $b
          (v128.or (i16x8.shl (local.get $b) (i32.const 1)) (i16x8.shr_u (local.get $b) (i32.const 15))))
        (local.set $c
          (v128.or (i16x8.shl (local.get $c) (i32.const 1)) (i16x8.shr_u (local.get $c) (i32.const 15))))
        (local.set $d
          (v128.or (i16x8.shl (local.get $d) (i32.const 1)) (i16x8.shr_u (local.get $d) (i32.const 15))))
        (v128.store (local.get $to)
          (i8x16.shuffle 0 2 4 6 8 10 12 14 16 18 20 22 24 26 28 30 (local.get $a) (local.get $b)))
        (v128.store offset=16 (local.get $to)
          (i8x16.shuffle 0 2 4 6 8 10 12 14 16 18 20 22 24 26 28 30 (local.get $c) (local.get $d)))
        (local.set $first
          (i8x16.shuffle 1 3 5 7 9 11 13 15 17 19 21 23 25 27 29 31 (local.get $a) (local.get $b)))
        (local.set $second
          (i8x16.shuffle 1 3 5 7 9 11 13 15 17 19 21 23 25 27 29 31 (local.get $c) (local.get $d)))

        ;; Compare with each exponent of the table in turn; they are distinct, so at most one code is or-ed in.
        (local.set $low (v128.const i64x2 0 0))
        (local.set $high (v128.const i64x2 0 0))
        (local.set $code (i8x16.splat (i32.const 0x80)))
        (local.set $k (i32.const 0))
        (loop $entry
          (local.set $exponent (v128.load8_splat (i32.add (local.get $table) (local.get $k))))
          (local.set $low (v128.or (local.get $low)
            (v128.and (i8x16.eq (local.get $first) (local.get $exponent)) (local.get $code))))
          (local.set $high (v128.or (local.get $high)
            (v128.and (i8x16.eq (local.get $second) (local.get $exponent)) (local.get $code))))
          (local.set $code (i8x16.add (local.get $code) (i8x16.splat (i32.const 1))))
          (br_if $entry (i32.ne (local.tee $k (i32.add (local.get $k) (i32.const 1))) (i32.const 16))))
        (v128.store offset=32 (local.get $to)
          (v128.or
            (v128.and (local.get $low) (i8x16.splat (i32.const 0x0f)))
            (v128.and (i16x8.shl (local.get $high) (i32.const 4)) (i8x16.splat (i32.const 0xf0)))))

        ;; One bit for each element without a code.
        (local.set $missing
          (i32.xor (i32.const -1)
            (i32.or
              (i8x16.bitmask (local.get $low))
              (i32.shl (i8x16.bitmask (local.get $high)) (i32.const 16)))))
        (block $none
          (br_if $none (i32.eqz (local.get $missing)))
          (loop $exception
            (local.set $lane (i32.ctz (local.get $missing)))
            (i32.store
              (i32.add (local.get $indices) (i32.shl (local.get $exceptions) (i32.const 2)))
              (i32.add (local.get $base) (local.get $lane)))
            (i32.store16
              (i32.add (local.get $values) (i32.shl (local.get $exceptions) (i32.const 1)))
              (i32.load16_u (i32.add (local.get $from) (i32.shl (local.get $lane) (i32.const 1)))))
            (local.set $exceptions (i32.add (local.get $exceptions) (i32.const 1)))
            (br_if $exception
              (local.tee $missing
                (i32.and (local.get $missing) (i32.sub (local.get $missing) (i32.const 1)))))))

        (local.set $from (i32.add (local.get $from) (i32.const 64)))
        (local.set $to (i32.add (local.get $to) (i32.const 48)))
        (local.set $base (i32.add (local.get $base) (i32.const 32)))
        (br_if $group (local.tee $groups (i32.sub (local.get $groups) (i32.const 1))))))
    (local.get $exceptions)))
