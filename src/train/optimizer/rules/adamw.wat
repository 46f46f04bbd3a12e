;; AdamW's step, four elements at a time, in the order of operations of ggml's kernel; every operation is rounded to f32.
;; It never touches a byte outside the ranges its caller names: checking those is the caller's work. The memory is shared,
;; so that several threads can step parts of it at the same time. Compiled by scripts/build-wasm.mjs.
(module
  (import "host" "memory" (memory 1 65535 shared))

  ;; Steps `count` elements: weights at `w`, gradient at `g`, moments at `m` and `v`, all f32, at multiples of 4.
  ;;   g' = g * scale                        the gradient itself is left as it is
  ;;   m  = m * beta1 + g' * rest1           rest1 is 1 - beta1
  ;;   v  = v * beta2 + (g' * g') * rest2
  ;;   w  = w * keep - lr * (m * correct1) / (sqrt(v * correct2) + eps)
  ;; Unless `copy` is 0 the new weights are also written there as bf16, rounded to the nearest, ties to even.
  (func (export "step")
    (param $w i32) (param $g i32) (param $m i32) (param $v i32) (param $copy i32) (param $count i32)
    (param $scale f32) (param $beta1 f32) (param $rest1 f32) (param $beta2 f32) (param $rest2 f32) (param $keep f32)
    (param $lr f32) (param $correct1 f32) (param $correct2 f32) (param $eps f32)
    (local $whole i32) (local $i i32) ;; bytes of f32
    (local $weights v128) (local $gradient v128) (local $moment1 v128) (local $moment2 v128) (local $top v128)
    (local $scale4 v128) (local $beta14 v128) (local $rest14 v128) (local $beta24 v128) (local $rest24 v128)
    (local $keep4 v128) (local $lr4 v128) (local $correct14 v128) (local $correct24 v128) (local $eps4 v128)
    (local $weight f32) (local $slope f32) (local $first f32) (local $second f32) (local $bits i32)
    (local.set $scale4 (f32x4.splat (local.get $scale)))
    (local.set $beta14 (f32x4.splat (local.get $beta1)))
    (local.set $rest14 (f32x4.splat (local.get $rest1)))
    (local.set $beta24 (f32x4.splat (local.get $beta2)))
    (local.set $rest24 (f32x4.splat (local.get $rest2)))
    (local.set $keep4 (f32x4.splat (local.get $keep)))
    (local.set $lr4 (f32x4.splat (local.get $lr)))
    (local.set $correct14 (f32x4.splat (local.get $correct1)))
    (local.set $correct24 (f32x4.splat (local.get $correct2)))
    (local.set $eps4 (f32x4.splat (local.get $eps)))
    (local.set $whole (i32.shl (i32.and (local.get $count) (i32.const -4)) (i32.const 2)))
    (local.set $count (i32.shl (local.get $count) (i32.const 2)))

    (block $done
      (br_if $done (i32.eqz (local.get $whole)))
      (loop $four
        (local.set $gradient
          (f32x4.mul (v128.load align=4 (i32.add (local.get $g) (local.get $i))) (local.get $scale4)))
        (local.set $moment1
          (f32x4.add
            (f32x4.mul (v128.load align=4 (i32.add (local.get $m) (local.get $i))) (local.get $beta14))
            (f32x4.mul (local.get $gradient) (local.get $rest14))))
        (local.set $moment2
          (f32x4.add
            (f32x4.mul (v128.load align=4 (i32.add (local.get $v) (local.get $i))) (local.get $beta24))
            (f32x4.mul (f32x4.mul (local.get $gradient) (local.get $gradient)) (local.get $rest24))))
        (v128.store align=4 (i32.add (local.get $m) (local.get $i)) (local.get $moment1))
        (v128.store align=4 (i32.add (local.get $v) (local.get $i)) (local.get $moment2))
        (local.set $weights
          (f32x4.sub
            (f32x4.mul (v128.load align=4 (i32.add (local.get $w) (local.get $i))) (local.get $keep4))
            (f32x4.div
              (f32x4.mul (local.get $lr4) (f32x4.mul (local.get $moment1) (local.get $correct14)))
              (f32x4.add
                (f32x4.sqrt (f32x4.mul (local.get $moment2) (local.get $correct24)))
                (local.get $eps4)))))
        (v128.store align=4 (i32.add (local.get $w) (local.get $i)) (local.get $weights))
        (if (local.get $copy)
          (then
            ;; The upper half, plus one where the lower half says so; a NaN keeps its upper half and becomes a quiet one.
            (local.set $top (i32x4.shr_u (local.get $weights) (i32.const 16)))
            (local.set $top
              (v128.bitselect
                (i32x4.shr_u
                  (i32x4.add
                    (i32x4.add (local.get $weights) (i32x4.splat (i32.const 0x7fff)))
                    (v128.and (local.get $top) (i32x4.splat (i32.const 1))))
                  (i32.const 16))
                (v128.or (local.get $top) (i32x4.splat (i32.const 64)))
                (f32x4.eq (local.get $weights) (local.get $weights))))
            (v128.store64_lane align=2 0
              (i32.add (local.get $copy) (i32.shr_u (local.get $i) (i32.const 1)))
              (i16x8.narrow_i32x4_u (local.get $top) (local.get $top)))))
        (br_if $four
          (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 16))) (local.get $whole)))))

    ;; The one to three elements that are left, in the same way.
    (block $end
      (br_if $end (i32.eq (local.get $i) (local.get $count)))
      (loop $one
        (local.set $slope
          (f32.mul (f32.load (i32.add (local.get $g) (local.get $i))) (local.get $scale)))
        (local.set $first
          (f32.add
            (f32.mul (f32.load (i32.add (local.get $m) (local.get $i))) (local.get $beta1))
            (f32.mul (local.get $slope) (local.get $rest1))))
        (local.set $second
          (f32.add
            (f32.mul (f32.load (i32.add (local.get $v) (local.get $i))) (local.get $beta2))
            (f32.mul (f32.mul (local.get $slope) (local.get $slope)) (local.get $rest2))))
        (f32.store (i32.add (local.get $m) (local.get $i)) (local.get $first))
        (f32.store (i32.add (local.get $v) (local.get $i)) (local.get $second))
        (local.set $weight
          (f32.sub
            (f32.mul (f32.load (i32.add (local.get $w) (local.get $i))) (local.get $keep))
            (f32.div
              (f32.mul (local.get $lr) (f32.mul (local.get $first) (local.get $correct1)))
              (f32.add (f32.sqrt (f32.mul (local.get $second) (local.get $correct2))) (local.get $eps)))))
        (f32.store (i32.add (local.get $w) (local.get $i)) (local.get $weight))
        (if (local.get $copy)
          (then
            (local.set $bits (i32.reinterpret_f32 (local.get $weight)))
            (i32.store16
              (i32.add (local.get $copy) (i32.shr_u (local.get $i) (i32.const 1)))
              (select
                (i32.shr_u
                  (i32.add
                    (i32.add (local.get $bits) (i32.const 0x7fff))
                    (i32.and (i32.shr_u (local.get $bits) (i32.const 16)) (i32.const 1)))
                  (i32.const 16))
                (i32.or (i32.shr_u (local.get $bits) (i32.const 16)) (i32.const 64))
                (f32.eq (local.get $weight) (local.get $weight))))))
        (br_if $one
          (i32.ne (local.tee $i (i32.add (local.get $i) (i32.const 4))) (local.get $count)))))))
