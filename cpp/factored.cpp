#include "factored.hpp"

#include <algorithm>
#include <cmath>

#include "parallel.hpp"

namespace gradstep::pipeline {

namespace {

// Bands are about as large as segments, so that several threads can work on one matrix, and have so
// many rows that their column sums are few beside the matrix.
constexpr int64_t least_rows = 32, most_bands = 64;

int64_t up(int64_t n, int64_t by) { return (n + by - 1) / by; }

int64_t band_rows(int64_t rows, int64_t columns) {
    const int64_t bands =
        std::min({most_bands, rows / least_rows, up(rows * columns, segment_elements)});
    return up(rows, std::max<int64_t>(bands, 1));
}

}    // namespace

void FactoredPass::run() {
    lay_out();
    if (items_.empty()) return;
    parallel::for_chunks(int64_t(parts_.size()), bytes_, [&](int64_t chunk) {
        const Part& part = parts_[size_t(chunk)];
        const Item& item = items_[part.item];
        for (int64_t band = part.first; band < part.end; ++band) {
            add(item, band);
            if (item.bands == 1) finish(item, band);    // while its sums are in the cache
        }
    });
    std::vector<Part> left;    // matrices of several bands, one each
    for (size_t i = 0; i < items_.size(); ++i)
        for (int64_t matrix = 0; items_[i].bands > 1 && matrix < items_[i].matrices; ++matrix)
            left.push_back({i, matrix, matrix + 1});
    const int64_t sums = int64_t(scratch_.column_sums.size() * sizeof(double));
    parallel::for_chunks(int64_t(left.size()), sums, [&](int64_t chunk) {
        const Part& part = left[size_t(chunk)];
        finish(items_[part.item], part.first);
    });
}

void FactoredPass::lay_out() {
    size_t rows = 0, columns = 0;
    for (Scratch::Active& active : scratch_.active) {
        const Tensor& tensor = tensors_[active.tensor];
        const Matrices& of = tensor.matrices;
        if (!active.kernel || !of.row || tensor.n == 0) continue;
        const int64_t height = band_rows(of.rows, of.columns), bands = up(of.rows, height);
        const int64_t matrices = tensor.n / (of.rows * of.columns);
        active.relative = rows;
        items_.push_back({&active, matrices, height, bands, rows, columns});
        rows += size_t(matrices * of.rows);
        columns += size_t(matrices * bands * of.columns);
        bytes_ += table_.storages[gradients_[active.tensor].storage].bytes(tensor.n);
        cut(items_.size() - 1);
    }
    scratch_.row_sums.resize(rows);
    scratch_.relative.resize(rows);    // of either type
    scratch_.column_sums.resize(columns);
}

// Cuts a tensor's bands into parts of at least about a segment: small matrices go together.
void FactoredPass::cut(size_t index) {
    const Item& item = items_[index];
    const int64_t band = item.band_rows * tensor_of(item).matrices.columns;
    const int64_t bands = item.matrices * item.bands;
    const int64_t at_once = std::max<int64_t>(segment_elements / band, 1);
    for (int64_t first = 0; first < bands; first += at_once)
        parts_.push_back({index, first, std::min(first + at_once, bands)});
}

void FactoredPass::add(const Item& item, int64_t band) const {
    const Matrices& of = tensor_of(item).matrices;
    double* const columns =
        scratch_.column_sums.data() + item.column_sums + size_t(band * of.columns);
    std::fill(columns, columns + of.columns, 0.0);
    const int64_t matrix = band / item.bands, first = band % item.bands * item.band_rows;
    const int64_t end = std::min(first + item.band_rows, of.rows);
    for (int64_t row = first; row < end; ++row) add_row(item, matrix * of.rows + row, columns);
}

void FactoredPass::add_row(const Item& item, int64_t row, double* columns) const {
    const Tensor& tensor = tensor_of(item);
    const Gradient& gradient = gradients_[item.active->tensor];
    const int64_t n = tensor.matrices.columns;
    const StorageInfo& storage = table_.storages[gradient.storage];
    const Compute compute = table_.storages[tensor.storage].compute;
    const bool is_plain = storage.bytes(1) == (compute == double_precision ? 8 : 4);
    const bool as_given =
        is_plain && std::fabs(item.active->factor) == 1 && !std::isfinite(settings_.clip_value);
    double sums[1][lanes] = {};
    if (as_given)
        table_.stages[compute].add_squares(
            static_cast<const char*>(gradient.data) + storage.offset(row * n), n, columns, *sums);
    else
        for (int64_t j = 0; j < n; j += block_elements)
            add_block(item, row * n + j, std::min(block_elements, n - j), columns + j, *sums);
    GatherLanes all = {};
    std::copy(*sums, *sums + lanes, all.sum[0]);
    double total = 0;
    table_.fold_gathered(all, 1, &total);
    scratch_.row_sums[item.row_sums + size_t(row)] = total;
}

// Adds up a block of the gradient as the rule gets it: unscaled and clipped.
void FactoredPass::add_block(const Item& item, int64_t element, int64_t n, double* columns,
                             double* lanes) const {
    const Gradient& gradient = gradients_[item.active->tensor];
    const StorageInfo& storage = table_.storages[gradient.storage];
    const Compute compute = table_.storages[tensor_of(item).storage].compute;
    alignas(64) double numbers[block_elements];    // of either type
    storage.decode[compute](static_cast<char*>(gradient.data) + storage.offset(element), nullptr,
                            Role::momentum, n, numbers);
    table_.stages[compute].clip(numbers, n, item.active->factor, settings_.clip_value, numbers);
    table_.stages[compute].add_squares(numbers, n, columns, lanes);
}

void FactoredPass::finish(const Item& item, int64_t matrix) const {
    const Tensor& tensor = tensor_of(item);
    const Matrices& of = tensor.matrices;
    const size_t size = table_.storages[tensor.storage].compute == double_precision ? 8 : 4;
    double* const columns =
        scratch_.column_sums.data() + item.column_sums + size_t(matrix * item.bands * of.columns);
    for (int64_t band = 1; band < item.bands; ++band)
        for (int64_t j = 0; j < of.columns; ++j) columns[j] += columns[band * of.columns + j];
    const size_t row = size_t(matrix * of.rows), column = size_t(matrix * of.columns);
    char* const relative =
        reinterpret_cast<char*>(scratch_.relative.data() + item.active->relative) + row * size;
    item.active->kernel->factor(scratch_.scalars[item.active->scalars].bytes,
                                {of.rows, of.columns,
                                 scratch_.row_sums.data() + item.row_sums + row, columns,
                                 static_cast<char*>(of.row) + row * size,
                                 static_cast<char*>(of.column) + column * size, relative});
}

}    // namespace gradstep::pipeline
