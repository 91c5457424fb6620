# Tests of model.
aqua_add_test(model projection_file LIBS aq_model PkgConfig::XXHASH)
