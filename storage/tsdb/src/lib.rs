//! One core's samples: slots, rows, the head, and selects over them.
