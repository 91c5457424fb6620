# Tests of base.
aqua_add_test(base arena LIBS aq_base)
aqua_add_test(base clock LIBS aq_base)
aqua_add_test(base dtype LIBS aq_base)
aqua_add_test(base file LIBS aq_base)
aqua_add_test(base rng LIBS aq_base)
aqua_add_test(base status LIBS aq_base)
aqua_add_test(base threads LIBS aq_base)
