// Rows and columns: adds up squares, has the rule take in their means, and makes elements of both.

template <class T> void add_squares(const void* data, int64_t n, double* columns, double* row) {
    const T* g = static_cast<const T*>(data);
    Doubles sums[lanes / width];
    __builtin_memcpy(sums, row, sizeof sums);
    int64_t j = 0;
    for (; j + lanes <= n; j += lanes) {
        for (int k = 0; k < lanes / width; ++k) {
            const Doubles value = doubles(g + j + k * width);
            Doubles column;
            __builtin_memcpy(&column, columns + j + k * width, sizeof column);
            column += value * value;
            sums[k] += value * value;
            __builtin_memcpy(columns + j + k * width, &column, sizeof column);
        }
    }
    __builtin_memcpy(row, sums, sizeof sums);
    for (int lane = 0; j < n; ++j, ++lane) {
        columns[j] += square(g[j]);
        row[lane] += square(g[j]);
    }
}

template <class T>
void multiply(const gradstep::Factored& matrices, int64_t first, int64_t n, void* result) {
    const int64_t rows = matrices.rows, columns = matrices.columns;
    const T* row = static_cast<const T*>(matrices.row) + first / columns;
    int64_t left_rows = rows - first / columns % rows, j = first % columns;
    const T* column = static_cast<const T*>(matrices.column) + first / columns / rows * columns;
    T* out = static_cast<T*>(result);
    while (n > 0) {
        const int64_t count = n < columns - j ? n : columns - j;
        const T factor = *row++;
#pragma omp simd
        for (int64_t k = 0; k < count; ++k) out[k] = factor * column[j + k];
        out += count;
        n -= count;
        j = 0;
        if (--left_rows == 0) {
            left_rows = rows;
            column += columns;
        }
    }
}

template <class Rule, class T> void factor(const void* scalars, const gradstep::Factoring& matrix) {
    const Rule rule = *static_cast<const Rule*>(scalars);
    T* const row = static_cast<T*>(matrix.row);
    T* const column = static_cast<T*>(matrix.column);
    T* const relative = static_cast<T*>(matrix.relative);
    const double rows = double(matrix.rows), columns = double(matrix.columns);
#pragma omp simd
    for (int64_t j = 0; j < matrix.columns; ++j)
        rule.average(column[j], T(matrix.column_sums[j] / rows));
    double sums[lanes] = {};
    for (int64_t i = 0; i < matrix.rows; ++i) {
        rule.average(row[i], T(matrix.row_sums[i] / columns));
        sums[i % lanes] += double(row[i]);
    }
    const double mean = fold(sums) / rows;
#pragma omp simd
    for (int64_t i = 0; i < matrix.rows; ++i) relative[i] = rule.relative(row[i], mean);
}
